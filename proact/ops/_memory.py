"""Where a tensor's elements lie, for operators that write in place."""

from __future__ import annotations

from torch import Tensor


def may_overlap(x: Tensor) -> bool:
    """Whether elements of ``x`` may share memory; False where the strides keep them apart."""
    reach = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach += stride * (size - 1)
    return False


def extent(x: Tensor) -> tuple[int, int]:
    """The first byte of the elements, and one past their last."""
    last = sum(stride * (size - 1) for stride, size in zip(x.stride(), x.shape, strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def layout(x: Tensor) -> str:
    """Shape and strides, for messages."""
    return f"shape {tuple(x.shape)} with strides {tuple(x.stride())}"
