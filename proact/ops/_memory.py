"""The memory of a tensor's elements, for operators that write in place."""

from __future__ import annotations

from torch import Tensor


def may_overlap(x: Tensor) -> bool:
    """Whether elements of ``x`` may share memory; False if the strides rule it out."""
    reach = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach += stride * (size - 1)
    return False


def extent(x: Tensor) -> tuple[int, int]:
    """The address of the first byte of the elements, and the address after the last."""
    if x.is_contiguous():
        last = x.numel() - 1
    else:
        last = sum(stride * (size - 1) for stride, size in zip(x.stride(), x.shape, strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def layout(x: Tensor) -> str:
    """Shape and strides, for error messages."""
    return f"shape {tuple(x.shape)} with strides {tuple(x.stride())}"


def once(x: Tensor, like: Tensor | None = None) -> Tensor:
    """The part of ``x`` that holds each number once: dimensions that were expanded have size 1.

    ``like`` has the shape of ``x``, and its strides tell which dimensions were expanded; by default
    it is ``x`` itself.
    """
    for dim, stride in enumerate((x if like is None else like).stride()):
        if stride == 0 and x.shape[dim] > 1:
            x = x.narrow(dim, 0, 1)
    return x
