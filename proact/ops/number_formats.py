"""Stored forms for native code: how it converts memory to stored words and back.

They mirror csrc/core/number_formats.hpp. None in place of a form means that memory holds the stored
words themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NativeForm = tuple[str | int, ...]


class FixedPointWord(NamedTuple):
    """A float stored in two's complement with a fixed number of fraction bits."""

    word_bits: int
    fraction_bits: int

    @property
    def native(self) -> NativeForm:
        return ("fixed_point", *self)


class ScaledIntegerWord(NamedTuple):
    """A float stored as a signed integer; element e has the scale ``scales[e // inner % n]``."""

    word_bits: int
    scales: Tensor  #: (n,) float32, contiguous, on the CPU
    inner: int

    @property
    def native(self) -> NativeForm:
        address, channels = self.scales.data_ptr(), self.scales.numel()
        return "scaled_integers", self.word_bits, address, channels, self.inner


class NarrowFloatWord(NamedTuple):
    """A float32 stored as ``float16`` or ``bfloat16``, or a float64 stored as ``float32``."""

    name: str

    @property
    def native(self) -> NativeForm:
        return (self.name,)


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


class UnreadWord(NamedTuple):
    """Memory that is not accessed: flips of such words are drawn but not made."""

    word_bits: int

    @property
    def native(self) -> NativeForm:
        return ("unread", self.word_bits)


def bit_numbers(mask: int) -> list[int]:
    """The bits that are set in a mask, in ascending order."""
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


NumberFormat = FixedPointWord | ScaledIntegerWord | NarrowFloatWord | SmallFloatWord | UnreadWord
