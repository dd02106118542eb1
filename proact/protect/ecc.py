"""ecc: check bits in the lowest bits of the stored words, scrubbed before each forward pass.

The codes are those of `proact.encodings.codes`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from proact.encodings.coded import has_only_small_integers
from proact.encodings.codes import code_named, words_code
from proact.faults import Where
from proact.faults.by_selector import BySelector, pairs_to_plain, selector_pairs
from proact.faults.selectors import Selector, matches, shown
from proact.nn import (
    ErrorCorrection,
    WeightRange,
    add_error_correction,
    remove_error_correction,
)
from proact.nn.error_correction import checked_schedule
from proact.nn.model_kinds import refuse_renormalised, renormalised_layers
from proact.nn.stored_guard import StoredGuard
from proact.nn.tensor_inventory import StoredTensor, stored_tensors
from proact.ops._memory import may_overlap
from proact.ops.in_place_code import TensorCode
from proact.ops.plain_memory import has_plain_memory
from proact.protect.method import GuardMethod
from proact.text import short_repr

#: The dtypes whose words are coded.
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8)
_WORD_BYTES = (4, 2, 1, 8)

#: The name of a code that leaves tensors as they are, for codes by selector.
NO_CODE = "none"

_EXAMPLE = '{"*.bias": "bch3", "*": "bch2"}'

#: The guards' own numbers need so little precision that the strongest code in place costs nothing,
#: and one that is lost harms a whole tensor.
_OWN_NUMBERS = (Where(kind="bound"), "bch3")


@dataclass(frozen=True)
class EccOptions:
    """Options of ``protect(model, "ecc", ...)``.

    Attributes:
        code: ``"secded"``, ``"bch2"`` or ``"bch3"``, which correct 1, 2 or 3 errors in a codeword,
            or ``"parity"``, ``"mset"`` or ``"cep"``; or codes by selector, as for
            `proact.faults.MixedEncoding`: each tensor has the code of the first selector that
            matches it, and ``"none"`` leaves it as it is. If the code of the last selector ``"*"``
            corrects errors, the pair ``Where(kind="bound"): "bch3"`` stands before it: the numbers
            of the guards themselves (bounds of weight-range and replacements) have the strongest
            code, unless another selector matches them. JSON text once the options are made, unless
            it is one name.
        every: a scrub precedes every n-th forward, the first included; 0 for scrubs on demand only,
            by `proact.nn.scrub`.
        interval: the seconds between scrubs by a background thread; None for no thread.
    """

    code: str | Mapping[Selector, str] = "bch2"
    every: int = 1
    interval: float | None = None

    def __post_init__(self) -> None:
        pairs = selector_pairs(self.code, "code", _EXAMPLE)
        if pairs is not None:
            given = BySelector(pairs, "code").pairs
            object.__setattr__(self, "code", json.dumps(pairs_to_plain(given)))
        _codes(self.label)
        checked_schedule(self.every, self.interval)

    @property
    def label(self) -> str:
        """The code as text."""
        return str(self.code)


def ecc(model: nn.Module, options: EccOptions, report: Callable[[str], None]) -> nn.Module:
    """Guards ``model`` itself, which has no such guard yet, and returns it."""
    guard = add_ecc(model, options.label, options.every, options.interval)
    words = sum(tensor.numel() for tensor in guard.tensors(model))
    report(f"{words:,} words of {len(guard.names)} tensors coded with {options.code}")
    return model


def add_ecc(model: nn.Module, code: str, every: int, interval: float | None) -> ErrorCorrection:
    """Codes every tensor that ``model`` stores and whose words its code fits, bounds too.

    Tensors of other dtypes, and those without plain memory, stay as they are, and so do tensors of
    integers as small as the steps between those that a coded word can hold, such as masks.

    Args:
        model: the model, whose words are coded in place.
        code: a name, or codes by selector as JSON text.
        every: as in `EccOptions`.
        interval: as in `EccOptions`.

    Warns:
        UserWarning: names selectors that match nothing, tensors of small integers, and weights that
            the code does not fit.

    Raises:
        ValueError: as `proact.nn.add_error_correction`, or a part of ``model`` has a guard of its
            own, whose words another code would destroy.
    """
    by_selector = _codes(code)
    remove_error_correction(model)
    for name, module in model.named_modules():
        if isinstance(module, ErrorCorrection):
            part = name.rpartition(".")[0]
            raise ValueError(
                f"{part} has an ecc guard of its own, and its words cannot have two codes: protect "
                f"the model with proact.nn.without_error_correction applied to {part}"
            )
    renormalised = renormalised_layers(model)
    refuse_renormalised(renormalised, renormalised, "ecc")
    codes: dict[str, TensorCode] = {}
    small: list[str] = []
    unfit: list[StoredTensor] = []
    all_stored = stored_tensors(model)
    _warn_of_unused(by_selector, all_stored)
    for stored in all_stored:
        name = by_selector.of(stored)
        if name == NO_CODE:
            continue
        if not _fits(stored, name, fitting := _by_word_size(name)):
            unfit.append(stored)
            continue
        fitted = fitting[stored.tensor.element_size()]
        if has_only_small_integers(stored.tensor, fitted.step(stored.tensor.numel())):
            small.append(stored.name)
        else:
            codes[stored.name] = fitted
    if small:
        _warn(
            f"ecc leaves {', '.join(small)} without check bits, because the code would set their "
            "small integers to 0"
        )
    if codes and (weights := [each for each in unfit if each.kind == "weight"]):
        numbers, whole = (sum(e.tensor.numel() for e in each) for each in (weights, all_stored))
        _warn(
            f"ecc leaves {', '.join(each.name for each in weights)} without check bits "
            f"({numbers:,} of {whole:,} numbers), because their dtype or the form of their memory "
            "does not fit the code"
        )
    chosen = by_selector.of(_REPLACEMENTS)
    replacements = _by_word_size(_OWN_NUMBERS[1] if chosen == NO_CODE else chosen)
    return add_error_correction(model, code, codes, replacements, every, interval)


def _codes(code: str) -> BySelector[str]:
    """The names of codes by selector; ValueError for a name of no code in place."""
    pairs = selector_pairs(code, "code", _EXAMPLE) or [("*", code)]
    for position, (where, name) in enumerate(pairs):
        if name != NO_CODE or len(pairs) == 1:
            _by_word_size(name)
        if where == "*" and position + 1 < len(pairs):
            raise ValueError(
                "no tensor is left for the selectors after '*' of the code: put '*' last"
            )
    last, name = pairs[-1]
    is_chosen = any(where == _OWN_NUMBERS[0] for where, _ in pairs)
    corrects = name != NO_CODE and code_named(name, 32).code.corrects > 0
    if last == "*" and corrects and not is_chosen:
        pairs.insert(-1, _OWN_NUMBERS)
    return BySelector(pairs, "code")


def _warn_of_unused(codes: BySelector[str], stored: Sequence[StoredTensor]) -> None:
    """Warns of selectors that match neither a tensor nor what weight-range may add later."""
    bounds = [_bound(f"{WeightRange.own_name}.{side}", WeightRange) for side in ("low", "high")]
    for where, name in codes.pairs:
        if not any(matches(where, each) for each in (*stored, _REPLACEMENTS, *bounds)):
            _warn(f"the code {name} for {short_repr(shown(where))} applies to no stored tensor")


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)


def _bound(name: str, guard: type[StoredGuard]) -> StoredTensor:
    """A tensor of a guard that is not there yet."""
    types = (guard.__name__,)
    return StoredTensor(name, (name,), torch.empty(0), guard.own_name, types, "bound", True)


#: The buffer that the guard adds after the tensors are coded.
_REPLACEMENTS = _bound("error_correction.replacements", ErrorCorrection)


def _by_word_size(name: str) -> dict[int, TensorCode]:
    """A code by the size of words in bytes, for all sizes that it fits; ValueError if none."""
    codes: dict[int, TensorCode] = {}
    for word_bytes in _WORD_BYTES:
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
