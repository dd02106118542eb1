"""How tensors of any layout are handed to the native HyReLU loops."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """A dense tensor as the loops see its memory: ``x[sample][threshold][inner]``."""

    samples: int
    thresholds: int
    inner: int
    #: One number for each threshold, in the order of memory: an axis for each of `axes`.
    threshold: Tensor
    #: The axes of ``x`` that the threshold varies along, the outermost in memory first.
    axes: tuple[int, ...]

    def to_given(self, ordered: Tensor, given: Tensor, dimensions: int) -> Tensor:
        """Brings numbers in the order of ``self.threshold`` into the shape of the ``given`` one,
        summed where that one is broadcast."""
        if not self.axes:
            return ordered.reshape(given.shape)
        sizes = [1] * dimensions
        for axis, size in zip(self.axes, ordered.shape, strict=True):
            sizes[axis] = size
        in_given_order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        spread = ordered.permute(in_given_order).reshape(sizes)
        aligned = (1,) * (dimensions - given.dim()) + tuple(given.shape)
        return spread.sum_to_size(aligned).reshape(given.shape)


def layout_of(x: Tensor, threshold: Tensor) -> Layout | None:
    """How the loops take ``x`` as it is, or None where it needs a contiguous copy first.

    ``threshold`` broadcasts against one sample. It is copied where its numbers have to be in
    another order (per neuron and channels-last) or written out for a whole sample (a shape such
    as (channels, 1, width)); ``x`` never is.
    """
    if threshold.numel() == 1:
        if x.is_contiguous() or _memory_order(x) is not None:
            return Layout(1, 1, x.numel(), threshold, ())
        return None
    order = _memory_order(x)
    if order is None:
        return None
    aligned = threshold.view((1,) * (x.dim() - threshold.dim()) + tuple(threshold.shape))
    found = _split(x, aligned, order)
    if found is None:
        # Written out for one sample. Fails where samples lie inside the others' memory.
        found = _split(x, aligned.expand(1, *x.shape[1:]), order)
    return found


def _memory_order(x: Tensor) -> tuple[int, ...] | None:
    """The axes of size 2 and more, the outermost in memory first; None where there are gaps."""
    axes = sorted((i for i, size in enumerate(x.shape) if size > 1), key=x.stride, reverse=True)
    expected = 1
    for axis in reversed(axes):
        if x.stride(axis) != expected:
            return None
        expected *= x.shape[axis]
    return tuple(axes)


def _split(x: Tensor, threshold: Tensor, order: tuple[int, ...]) -> Layout | None:
    """The axes that the threshold varies along must be neighbours in memory."""
    varies = [threshold.shape[axis] != 1 for axis in order]
    first = varies.index(True)
    last = len(varies) - varies[::-1].index(True)
    if not all(varies[first:last]):
        return None
    sizes = [x.shape[axis] for axis in order]
    axes = order[first:last]
    others = tuple(axis for axis in range(x.dim()) if axis not in axes)
    ordered = threshold.permute(*axes, *others).reshape([x.shape[axis] for axis in axes])
    return Layout(
        math.prod(sizes[:first]),
        math.prod(sizes[first:last]),
        math.prod(sizes[last:]),
        ordered.contiguous(),
        axes,
    )


def like(x: Tensor, other: Tensor) -> Tensor:
    """``other`` with the strides of ``x``, copied if it has others."""
    return other if other.stride() == x.stride() else torch.empty_like(x).copy_(other)
