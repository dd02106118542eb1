"""How native code reads memory whose numbers stand for other words: csrc/core/number_formats.hpp.

None in place of one of these means that memory holds the stored words themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NativeForm = tuple[str | int, ...]


class FixedPointWord(NamedTuple):
    """The stored form of a float: two's complement with so many bits, of them fraction bits."""

    word_bits: int
    fraction_bits: int

    @property
    def native(self) -> NativeForm:
        return ("fixed_point", *self)


class ScaledIntegerWord(NamedTuple):
    """A float stored as a signed integer times a scale: ``scales[e // inner % n]`` at element e."""

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


class UnreadWord(NamedTuple):
    """Memory that is not touched: flips of such words are only drawn."""

    word_bits: int

    @property
    def native(self) -> NativeForm:
        return ("unread", self.word_bits)


def bit_numbers(mask: int) -> list[int]:
    """The bits that a mask exposes, the lowest first."""
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


NumberFormat = FixedPointWord | ScaledIntegerWord | NarrowFloatWord | UnreadWord
