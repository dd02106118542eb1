"""Maps tensors of any strides to the three nested loops of the native HyReLU."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class LoopShape(NamedTuple):
    """The sizes of the loops over a dense tensor's memory: ``x[sample][threshold][inner]``."""

    samples: int
    thresholds: int
    inner: int
    #: The axes along which the threshold varies, from the outermost in memory.
    axes: tuple[int, ...]
    #: Whether a contiguous threshold has its elements in this order already.
    as_given: bool


class Layout(NamedTuple):
    """A `LoopShape`, with the thresholds contiguous and in its order."""

    loops: LoopShape
    threshold: Tensor

    def to_given(self, ordered: Tensor, given: Tensor, dimensions: int) -> Tensor:
        """Reshapes values in the order of ``self.threshold`` to the shape of the ``given`` one, and
        sums them over the axes along which it was broadcast."""
        if self.loops.as_given:
            return ordered.view(given.shape)
        sizes = [1] * dimensions
        for axis, size in zip(self.loops.axes, ordered.shape, strict=True):
            sizes[axis] = size
        in_given_order = sorted(range(len(self.loops.axes)), key=self.loops.axes.__getitem__)
        spread = ordered.permute(in_given_order).reshape(sizes)
        return spread.sum_to_size(_aligned(given.shape, dimensions)).reshape(given.shape)


def layout_of(x: Tensor, threshold: Tensor) -> Layout | None:
    """The loops over ``x`` in its own memory, or None if it needs a contiguous copy first.

    ``threshold`` broadcasts against one sample. It is copied if its elements must be reordered (per
    neuron and channels-last) or expanded to a whole sample (a shape such as (channels, 1, width)).
    ``x`` is never copied.
    """
    loops = _loop_shape(x.shape, x.stride(), threshold.shape)
    if loops is None:
        return None
    if loops.as_given:
        return Layout(loops, threshold if threshold.is_contiguous() else threshold.contiguous())
    aligned = threshold.reshape(_aligned(threshold.shape, x.dim()))
    expanded = aligned.expand([x.shape[a] if a in loops.axes else 1 for a in range(x.dim())])
    others = [axis for axis in range(x.dim()) if axis not in loops.axes]
    ordered = expanded.permute(*loops.axes, *others).reshape([x.shape[axis] for axis in loops.axes])
    return Layout(loops, ordered.contiguous())


def like(x: Tensor, other: Tensor) -> Tensor:
    """``other`` with the strides of ``x``; copied if its strides differ."""
    return other if other.stride() == x.stride() else torch.empty_like(x).copy_(other)


def _aligned(threshold: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    return (1,) * (dimensions - len(threshold)) + tuple(threshold)


@lru_cache(maxsize=4096)  # a model has few shapes, and this takes longer than a small loop
def _loop_shape(
    shape: tuple[int, ...], strides: tuple[int, ...], threshold: tuple[int, ...]
) -> LoopShape | None:
    order = _memory_order(shape, strides)
    if order is None:
        return None
    if math.prod(threshold) == 1:
        return LoopShape(1, 1, math.prod(shape), (), as_given=True)
    aligned = _aligned(threshold, len(shape))
    given_axes = [axis for axis, size in enumerate(aligned) if size != 1]
    loops = _split(shape, order, given_axes)
    if loops is None:
        # Expanded to one sample. This fails if the memory of samples is interleaved.
        loops = _split(shape, order, list(range(1, len(shape))))
    if loops is None:
        return None
    return loops._replace(as_given=list(loops.axes) == given_axes)


def _memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of size 2 and more, from the outermost in memory; None if there are gaps."""
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    axes.sort(key=strides.__getitem__, reverse=True)
    expected = 1
    for axis in reversed(axes):
        if strides[axis] != expected:
            return None
        expected *= shape[axis]
    return tuple(axes)


def _split(shape: tuple[int, ...], order: tuple[int, ...], varying: list[int]) -> LoopShape | None:
    """The loops, if the axes along which the threshold varies are adjacent in memory."""
    varies = [axis in varying for axis in order]
    first = varies.index(True)
    last = len(varies) - varies[::-1].index(True)
    if not all(varies[first:last]):
        return None
    sizes = [shape[axis] for axis in order]
    return LoopShape(
        math.prod(sizes[:first]),
        math.prod(sizes[first:last]),
        math.prod(sizes[last:]),
        order[first:last],
        as_given=False,
    )
