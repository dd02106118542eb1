"""How tensors of any layout are handed to the native HyReLU loops."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Cut(NamedTuple):
    """A dense tensor as the loops see its memory: ``x[sample][threshold][inner]``."""

    samples: int
    thresholds: int
    inner: int
    #: The axes of the tensor that the threshold varies along, the outermost in memory first.
    axes: tuple[int, ...]
    #: Whether the given threshold, if contiguous, has its numbers in this order already.
    as_given: bool


class Layout(NamedTuple):
    """A `Cut`, and the thresholds in its order, contiguous."""

    cut: Cut
    threshold: Tensor

    def to_given(self, ordered: Tensor, given: Tensor, dimensions: int) -> Tensor:
        """Brings numbers in the order of ``self.threshold`` into the shape of the ``given`` one,
        summed where that one is broadcast."""
        if self.cut.as_given:
            return ordered.view(given.shape)
        sizes = [1] * dimensions
        for axis, size in zip(self.cut.axes, ordered.shape, strict=True):
            sizes[axis] = size
        in_given_order = sorted(range(len(self.cut.axes)), key=self.cut.axes.__getitem__)
        spread = ordered.permute(in_given_order).reshape(sizes)
        return spread.sum_to_size(_aligned(given.shape, dimensions)).reshape(given.shape)


def layout_of(x: Tensor, threshold: Tensor) -> Layout | None:
    """How the loops take ``x`` as it is, or None where it needs a contiguous copy first.

    ``threshold`` broadcasts against one sample. It is copied where its numbers have to be in
    another order (per neuron and channels-last) or written out for a whole sample (a shape such
    as (channels, 1, width)); ``x`` never is.
    """
    cut = _cut(x.shape, x.stride(), threshold.shape)
    if cut is None:
        return None
    if cut.as_given:
        return Layout(cut, threshold if threshold.is_contiguous() else threshold.contiguous())
    aligned = threshold.reshape(_aligned(threshold.shape, x.dim()))
    expanded = aligned.expand([x.shape[a] if a in cut.axes else 1 for a in range(x.dim())])
    others = [axis for axis in range(x.dim()) if axis not in cut.axes]
    ordered = expanded.permute(*cut.axes, *others).reshape([x.shape[axis] for axis in cut.axes])
    return Layout(cut, ordered.contiguous())


def like(x: Tensor, other: Tensor) -> Tensor:
    """``other`` with the strides of ``x``, copied if it has others."""
    return other if other.stride() == x.stride() else torch.empty_like(x).copy_(other)


def _aligned(threshold: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    return (1,) * (dimensions - len(threshold)) + tuple(threshold)


@lru_cache(maxsize=4096)  # a network has few shapes, and this takes longer than small loops
def _cut(
    shape: tuple[int, ...], strides: tuple[int, ...], threshold: tuple[int, ...]
) -> Cut | None:
    order = _memory_order(shape, strides)
    if order is None:
        return None
    if math.prod(threshold) == 1:
        return Cut(1, 1, math.prod(shape), (), as_given=True)
    aligned = _aligned(threshold, len(shape))
    given_axes = [axis for axis, size in enumerate(aligned) if size != 1]
    cut = _split(shape, order, given_axes)
    if cut is None:
        # Written out for one sample. Fails where samples lie inside the others' memory.
        cut = _split(shape, order, list(range(1, len(shape))))
    if cut is None:
        return None
    return cut._replace(as_given=list(cut.axes) == given_axes)


def _memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of size 2 and more, the outermost in memory first; None where there are gaps."""
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    axes.sort(key=strides.__getitem__, reverse=True)
    expected = 1
    for axis in reversed(axes):
        if strides[axis] != expected:
            return None
        expected *= shape[axis]
    return tuple(axes)


def _split(shape: tuple[int, ...], order: tuple[int, ...], varying: list[int]) -> Cut | None:
    """The axes that the threshold varies along must be neighbours in memory."""
    varies = [axis in varying for axis in order]
    first = varies.index(True)
    last = len(varies) - varies[::-1].index(True)
    if not all(varies[first:last]):
        return None
    sizes = [shape[axis] for axis in order]
    return Cut(
        math.prod(sizes[:first]),
        math.prod(sizes[first:last]),
        math.prod(sizes[last:]),
        order[first:last],
        as_given=False,
    )
