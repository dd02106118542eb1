"""Compare outputs of two forward passes: bit by bit, or up to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from proact.models.torch_settings import TorchSettings
from proact.nn.outputs import dense, output_tensors, plain_values

#: The largest difference that rounding explains, as a share of the largest value, by the bytes of a
#: number. Kernels for other batch sizes add in another order.
_ROUNDING = {8: 1e-6, 4: 1e-3, 2: 5e-2, 1: 2e-1}
#: The share of integers, such as predicted classes, that rounding may change.
_CHANGED_INTEGERS = 0.05


def equal_bits(a: Any, b: Any) -> bool:
    """Whether two outputs hold the same tensors, bit by bit.

    Numbers and texts are compared where neither output holds a tensor.
    """
    first, second = output_tensors(a), output_tensors(b)
    if not first and not second:
        return plain_values(a) == plain_values(b)
    return len(first) == len(second) and all(map(_same_bits, first, second))


def is_comparable(output: Any) -> bool:
    """Whether an output holds tensors, numbers or texts, so that `equal_bits` means something."""
    return bool(output_tensors(output) or plain_values(output))


def tolerance_of(tensors: Sequence[Tensor]) -> float:
    """The difference that rounding explains, for the least precise of some tensors.

    Where torch rounds float32 to TF32 or bfloat16, by default in convolutions on a GPU, float32 is
    as precise as these.

    Returns:
        A share of the largest value.
    """
    settings = TorchSettings.current()
    bytes_each = [
        2 if t.dtype == torch.float32 and settings.rounding(t.device) else min(t.dtype.itemsize, 8)
        for t in tensors
        if t.is_floating_point()
    ]
    return _ROUNDING[min(bytes_each, default=4)]


def equal_up_to(tolerance: float, a: Tensor, b: Tensor, scale: Tensor | None = None) -> bool:
    """Whether two tensors have one shape and differ by at most ``tolerance``.

    Args:
        tolerance: as a share of the largest finite value of ``scale``, or of ``a``.
    """
    a, b = dense(a), dense(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.numel() == 0:
        return True
    if not a.is_floating_point():
        return float((a != b).float().mean()) <= _CHANGED_INTEGERS
    a, b = a.double(), b.double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return False
    whole = (a if scale is None else dense(scale).double()).nan_to_num(0.0, 0.0, 0.0)
    return bool(((a - b)[finite].abs() <= tolerance * whole.abs().max()).all())


def same_answers(
    whole: Any, part: Any, rows: Sequence[int], samples: int, tolerance: float
) -> bool | None:
    """Whether samples have the same answers in a batch and in a smaller one.

    Args:
        whole: the output for a batch of ``samples`` samples.
        part: the output for the samples ``rows`` of it, in their order.
        tolerance: as for `equal_up_to`.

    Returns:
        None if no tensor of the outputs has a row for each sample, so that none can be compared.
    """
    if isinstance(whole, list) and isinstance(part, list) and len(whole) != len(part):
        if (len(whole), len(part)) != (samples, len(rows)):
            return None
        # One tree for each sample, such as the objects that a detector finds.
        pairs = [(whole[row], part[place]) for place, row in enumerate(rows)]
        if not any(is_comparable(each) for pair in pairs for each in pair):
            return None
        return all(_are_close(tolerance, *pair) for pair in pairs)
    first, second = output_tensors(whole), output_tensors(part)
    if len(first) != len(second):
        return False
    found = [same_rows(a, b, rows, samples, tolerance) for a, b in zip(first, second, strict=True)]
    return False if False in found else None if True not in found else True


def _are_close(tolerance: float, a: Any, b: Any) -> bool:
    first, second = output_tensors(a), output_tensors(b)
    if not first and not second:
        return plain_values(a) == plain_values(b)
    return len(first) == len(second) and all(
        equal_up_to(tolerance, x, y) for x, y in zip(first, second, strict=True)
    )


def same_rows(
    whole: Tensor, part: Tensor, rows: Sequence[int], samples: int, tolerance: float
) -> bool | None:
    """`same_answers` for one tensor, whose first dimension may count the samples."""
    whole, part = dense(whole), dense(part)
    if whole.dim() == 0 or len(whole) != samples or part.dim() == 0 or len(part) != len(rows):
        return None
    return equal_up_to(tolerance, whole[list(rows)], part, whole)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = dense(a), dense(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = (each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (a, b))
    return torch.equal(first, second)
