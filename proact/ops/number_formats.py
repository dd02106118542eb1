"""Stored forms for native code: how it converts memory to stored words and back.

They mirror csrc/core/number_formats.hpp. None in place of a form means that memory holds the stored
words themselves. ``native`` describes a form to native code, and ``on`` returns it with its scales
on a device: kernels read scales where the words are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.ops.plain_memory import address_of

NativeForm = tuple[str | int, ...]


class FixedPointWord(NamedTuple):
    """A float stored in two's complement with a fixed number of fraction bits."""

    word_bits: int
    fraction_bits: int

    @property
    def native(self) -> NativeForm:
        return ("fixed_point", *self)

    def on(self, device: torch.device) -> FixedPointWord:
        return self


class ScaleLayout(NamedTuple):
    """The scale of each element of a tensor: number ``e // row * stride + e % row // block``.

    Rows of ``row`` elements are divided into blocks, whose last one may be shorter. ``stride`` is
    the number of blocks in a row, or 0 if all rows have the same scales.
    """

    row: int
    block: int
    stride: int

    def numbers(self, elements: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The scale of each of the given elements, both (n,)."""
        e = elements.astype(np.int64)
        return np.asarray(e // self.row * self.stride + e % self.row // self.block)

    def first_elements(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first element that has each of the given scales, both (n,)."""
        if not self.stride:
            return numbers * self.block
        return numbers // self.stride * self.row + numbers % self.stride * self.block

    def elements_with(self, numbers: NDArray[np.int64], size: int) -> NDArray[np.uint64]:
        """The elements of a tensor of ``size`` elements that have the given scales, in order."""
        begins = self.first_elements(numbers)
        if not self.stride:  # in each row again
            begins = (np.arange(0, size, self.row)[:, None] + begins).reshape(-1)
        ends = np.minimum(begins + self.block, (begins // self.row + 1) * self.row)
        lengths = np.maximum(np.minimum(ends, size) - begins, 0)
        before = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(before, lengths)
        return np.sort(np.repeat(begins, lengths) + within).astype(np.uint64)


class ScaledIntegerWord(NamedTuple):
    """A float stored as an integer: (integer - zero point) * scale."""

    word_bits: int
    scales: Tensor  #: (n,) float32, contiguous, on the device whose memory is flipped
    layout: ScaleLayout
    is_signed: bool = True
    zero_points: Tensor | None = None  #: (n,) int32, contiguous, beside the scales; None: all 0

    @property
    def native(self) -> NativeForm:
        zeros = 0 if self.zero_points is None else address_of("zero points", self.zero_points)
        form = ("scaled_integers", self.word_bits, int(self.is_signed), zeros)
        return (*form, *_native_scales(self.scales, self.layout))

    def on(self, device: torch.device) -> ScaledIntegerWord:
        zeros = None if self.zero_points is None else self.zero_points.to(device)
        return self._replace(scales=self.scales.to(device), zero_points=zeros)


class ScaledFloatWord(NamedTuple):
    """A float stored as a small float times a scale."""

    element: SmallFloatWord
    scales: Tensor  #: (n,) float32, contiguous, on the device whose memory is flipped
    layout: ScaleLayout

    @property
    def native(self) -> NativeForm:
        return ("scaled_floats", *self.element, *_native_scales(self.scales, self.layout))

    def on(self, device: torch.device) -> ScaledFloatWord:
        return self._replace(scales=self.scales.to(device))


def _native_scales(scales: Tensor, layout: ScaleLayout) -> tuple[int, ...]:
    return (address_of("scales", scales), scales.numel(), *layout)


class NarrowFloatWord(NamedTuple):
    """A float32 stored as ``float16`` or ``bfloat16``, or a float64 stored as ``float32``."""

    name: str

    @property
    def native(self) -> NativeForm:
        return (self.name,)

    def on(self, device: torch.device) -> NarrowFloatWord:
        return self


class SmallFloatWord(NamedTuple):
    """A float32 or float64 stored as a float of up to 16 bits."""

    exponent_bits: int
    mantissa_bits: int
    bias: int
    has_infinity: bool
    has_nan: bool

    @property
    def native(self) -> NativeForm:
        return ("small_float", *self)

    def on(self, device: torch.device) -> SmallFloatWord:
        return self


class UnreadWord(NamedTuple):
    """Memory that is not accessed: flips of such words are drawn but not made."""

    word_bits: int

    @property
    def native(self) -> NativeForm:
        return ("unread", self.word_bits)

    def on(self, device: torch.device) -> UnreadWord:
        return self


def bit_numbers(mask: int) -> list[int]:
    """The bits that are set in a mask, in ascending order."""
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


NumberFormat = (
    FixedPointWord
    | ScaledIntegerWord
    | ScaledFloatWord
    | NarrowFloatWord
    | SmallFloatWord
    | UnreadWord
)
