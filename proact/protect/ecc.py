"""ecc: check bits in the lowest bits of the stored words, scrubbed before each forward pass.

The codes are those of `proact.encodings.codes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from proact.encodings.codes import words_code
from proact.nn import ErrorCorrection, add_error_correction, remove_error_correction
from proact.nn.error_correction import checked_schedule
from proact.nn.tensor_inventory import StoredTensor, stored_tensors
from proact.ops._memory import may_overlap
from proact.ops.in_place_code import TensorCode
from proact.ops.plain_memory import has_plain_memory
from proact.protect.method import GuardMethod

#: The dtypes whose words are coded.
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8)


@dataclass(frozen=True)
class EccOptions:
    """Options of ``protect(model, "ecc", ...)``.

    Attributes:
        code: ``"secded"``, ``"bch2"`` or ``"bch3"``, which correct 1, 2 or 3 errors in a codeword,
            or ``"parity"``, ``"mset"`` or ``"cep"``.
        every: a scrub precedes every n-th forward, the first included; 0 for scrubs on demand only,
            by `proact.nn.scrub`.
        interval: the seconds between scrubs by a background thread; None for no thread.
    """

    code: str = "bch2"
    every: int = 1
    interval: float | None = None

    def __post_init__(self) -> None:
        _codes(self.code)
        checked_schedule(self.every, self.interval)


def ecc(model: nn.Module, options: EccOptions, report: Callable[[str], None]) -> nn.Module:
    """Guards ``model`` itself, which has no such guard yet, and returns it."""
    guard = add_ecc(model, options.code, options.every, options.interval)
    words = sum(tensor.numel() for tensor in guard.tensors(model))
    report(f"{words:,} words of {len(guard.names)} tensors coded with {options.code}")
    return model


def add_ecc(model: nn.Module, code: str, every: int, interval: float | None) -> ErrorCorrection:
    """Codes every tensor that ``model`` stores and whose words the code fits, bounds too.

    Tensors of other dtypes, and those without plain memory, stay as they are.
    """
    codes = _codes(code)
    remove_error_correction(model)
    names = [each.name for each in stored_tensors(model) if _fits(each, code, codes)]
    return add_error_correction(model, names, code, codes, every, interval)


def _codes(name: str) -> dict[int, TensorCode]:
    """A code by the size of words in bytes, for all sizes that it fits; ValueError if none."""
    codes: dict[int, TensorCode] = {}
    for word_bytes in (4, 2, 1, 8):
        try:
            codes[word_bytes] = words_code(name, word_bytes)
        except ValueError:
            if not codes:  # float32 words fit every code in place
                raise
    return codes


def _fits(stored: StoredTensor, code: str, codes: dict[int, TensorCode]) -> bool:
    tensor = stored.tensor
    return (
        tensor.dtype in _DTYPES
        and tensor.element_size() in codes
        and (code != "mset" or tensor.is_floating_point())
        and has_plain_memory(tensor)
        and not may_overlap(tensor)
    )


METHOD = GuardMethod(ecc, EccOptions)
