"""Reference of the stored forms in plain Python, with the meaning of
csrc/core/number_formats.hpp."""

from __future__ import annotations

import ctypes
import math
import struct
from abc import ABC, abstractmethod
from fractions import Fraction

import numpy as np


class Form(ABC):
    """Converts numbers to stored words and back.

    ``element`` is the row-major index of the number in its tensor.
    """

    word_bits: int

    @abstractmethod
    def encode(self, value: float, element: int = 0) -> int: ...
    @abstractmethod
    def decode(self, word: int, element: int = 0) -> float: ...

    def stored(self, memory: int, word_bytes: int, element: int) -> int:
        """The stored word of the number in a memory word."""
        form = ("<I", "<f") if word_bytes == 4 else ("<Q", "<d")
        return self.encode(struct.unpack(form[1], struct.pack(form[0], memory))[0], element)

    def memory(self, word: int, word_bytes: int, element: int) -> int:
        """The memory word of the number that a stored word means."""
        return _packed("f" if word_bytes == 4 else "d", self.decode(word, element))


class Fixed(Form):
    """qM.N words of ``word_bits`` bits with ``fraction_bits`` fraction bits."""

    def __init__(self, word_bits: int, fraction_bits: int) -> None:
        self.word_bits, self.fraction_bits = word_bits, fraction_bits

    def encode(self, value: float, element: int = 0) -> int:
        return _saturated(value * 2.0**self.fraction_bits, self.word_bits)

    def decode(self, word: int, element: int = 0) -> float:
        return _signed(word, self.word_bits) / 2.0**self.fraction_bits


class Scales:
    """The scales of a tensor, which native code gets by their address."""

    def __init__(self, address: int, count: int, row: int, block: int, stride: int) -> None:
        self._scales = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        self._row, self._block, self._stride = row, block, stride

    def number(self, element: int) -> int:
        return element // self._row * self._stride + element % self._row // self._block

    def at(self, element: int) -> float:
        return float(self._scales[self.number(element)])


class ScaledIntegers(Form):
    """Integers with scales, and zero points unless ``zeros`` is 0."""

    def __init__(self, word_bits: int, is_signed: int, zeros: int, *scales: int) -> None:
        self.word_bits, self._is_signed = word_bits, bool(is_signed)
        self._scales = Scales(*scales)
        count = scales[1]
        self._zeros = (ctypes.c_int32 * count).from_address(zeros) if zeros else [0] * count

    def encode(self, value: float, element: int = 0) -> int:
        scaled = value / self._scales.at(element)
        if self._is_signed:
            return _saturated(scaled, self.word_bits)
        top = (1 << self.word_bits) - 1
        if math.isinf(scaled):
            return top if scaled > 0.0 else 0
        nearest = 0 if math.isnan(scaled) else round(scaled)
        return max(0, min(top, nearest + self._zero(element)))

    def decode(self, word: int, element: int = 0) -> float:
        integer = _signed(word, self.word_bits) if self._is_signed else word
        return (integer - self._zero(element)) * self._scales.at(element)

    def _zero(self, element: int) -> int:
        return int(self._zeros[self._scales.number(element)])


class Narrow(Form):
    """Floats stored in a narrower format. NaN keeps the upper bits of its payload."""

    def __init__(self, name: str) -> None:
        self.word_bits = 32 if name == "float32" else 16
        self._name = name
        self._mantissa = {"float16": 10, "bfloat16": 7, "float32": 23}[name]

    def encode(self, value: float, element: int = 0) -> int:
        if self._name == "bfloat16":
            bits = _packed("f", value)
            return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return _packed("e" if self._name == "float16" else "f", value)

    def decode(self, word: int, element: int = 0) -> float:
        if self._name == "bfloat16":
            word, form = word << 16, ("<I", "<f")
        else:
            form = ("<H", "<e") if self._name == "float16" else ("<I", "<f")
        value: float = struct.unpack(form[1], struct.pack(form[0], word))[0]
        return value

    def stored(self, memory: int, word_bytes: int, element: int) -> int:
        wide, infinity = _mantissa_and_infinity(word_bytes)
        magnitude = memory & ((1 << (8 * word_bytes - 1)) - 1)
        if magnitude <= infinity:
            return super().stored(memory, word_bytes, element)
        payload = (magnitude - infinity) >> (wide - self._mantissa)
        sign = memory >> (8 * word_bytes - 1) << (self.word_bits - 1)
        return sign | self._infinity | (payload or 1 << (self._mantissa - 1))

    def memory(self, word: int, word_bytes: int, element: int) -> int:
        wide, infinity = _mantissa_and_infinity(word_bytes)
        payload = (word & ((1 << (self.word_bits - 1)) - 1)) - self._infinity
        if payload <= 0:
            return super().memory(word, word_bytes, element)
        sign = word >> (self.word_bits - 1) << (8 * word_bytes - 1)
        return sign | infinity | payload << (wide - self._mantissa)

    @property
    def _infinity(self) -> int:
        return (1 << (self.word_bits - 1)) - (1 << self._mantissa)


class Small(Form):
    """Floats of up to 16 bits. NaN keeps the upper bits of its payload if there is infinity."""

    def __init__(
        self, exponent_bits: int, mantissa_bits: int, bias: int, has_infinity: int, has_nan: int
    ) -> None:
        self.word_bits = 1 + exponent_bits + mantissa_bits
        self._mantissa, self._bias = mantissa_bits, bias
        self._has_infinity, self._has_nan = bool(has_infinity), bool(has_nan)
        self._ones = (1 << (self.word_bits - 1)) - 1
        self._infinity = self._ones - ((1 << mantissa_bits) - 1)

    def encode(self, value: float, element: int = 0) -> int:
        sign = (math.copysign(1.0, value) < 0.0) << (self.word_bits - 1)
        beyond = self._infinity if self._has_infinity else self._ones - self._has_nan
        if math.isinf(value):
            return sign | beyond
        mantissa, above = math.frexp(abs(value))
        # The exponents of the last mantissa bit and of the lowest one.
        lowest = 1 - self._bias - self._mantissa
        last = max(above - 1 - self._mantissa, lowest) if value else lowest
        steps = Fraction(mantissa) * Fraction(2) ** (above - last)
        below = ((last - lowest) << self._mantissa) + math.floor(steps)
        rest = steps - math.floor(steps)
        nearest = below + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1))
        return sign | min(nearest, beyond)

    def decode(self, word: int, element: int = 0) -> float:
        magnitude = word & self._ones
        if self._has_infinity and magnitude == self._infinity:
            value = math.inf
        else:
            field, mantissa = magnitude >> self._mantissa, magnitude % (1 << self._mantissa)
            implicit = (field > 0) << self._mantissa
            last = max(field, 1) - self._bias - self._mantissa
            value = math.ldexp(mantissa + implicit, last)
        return -value if word > self._ones else value

    def stored(self, memory: int, word_bytes: int, element: int) -> int:
        wide, infinity = _mantissa_and_infinity(word_bytes)
        magnitude = memory & ((1 << (8 * word_bytes - 1)) - 1)
        if magnitude <= infinity:
            return super().stored(memory, word_bytes, element)
        if not self._has_nan:
            return 0
        sign = memory >> (8 * word_bytes - 1) << (self.word_bits - 1)
        if not self._has_infinity:
            return sign | self._ones
        payload = (magnitude - infinity) >> (wide - self._mantissa)
        return sign | self._infinity | (payload or 1 << (self._mantissa - 1))

    def memory(self, word: int, word_bytes: int, element: int) -> int:
        wide, infinity = _mantissa_and_infinity(word_bytes)
        magnitude = word & self._ones
        if self._has_infinity and magnitude > self._infinity:
            payload = (magnitude - self._infinity) << (wide - self._mantissa)
        elif self._has_nan and not self._has_infinity and magnitude == self._ones:
            payload = 1 << (wide - 1)
        else:
            return super().memory(word, word_bytes, element)
        return word >> (self.word_bits - 1) << (8 * word_bytes - 1) | infinity | payload


class ScaledFloats(Small):
    """Small floats with scales. NaN and infinity are not scaled."""

    def __init__(self, *description: int) -> None:
        super().__init__(*description[:5])
        self._scales = Scales(*description[5:])

    def encode(self, value: float, element: int = 0) -> int:
        return super().encode(value / self._scales.at(element))

    def decode(self, word: int, element: int = 0) -> float:
        return super().decode(word) * self._scales.at(element)


def _mantissa_and_infinity(word_bytes: int) -> tuple[int, int]:
    mantissa = 23 if word_bytes == 4 else 52
    return mantissa, (1 << (8 * word_bytes - 1)) - (1 << mantissa)


_FORMS = {
    "fixed_point": Fixed,
    "scaled_integers": ScaledIntegers,
    "scaled_floats": ScaledFloats,
    "small_float": Small,
}


def form_of(native: tuple[str | int, ...]) -> Form | None:
    """The form for a native description; None if memory holds the stored words."""
    if not native:
        return None
    name, *numbers = native
    if name in _FORMS:
        form: Form = _FORMS[str(name)](*map(int, numbers))
        return form
    return Narrow(str(name))


def _packed(code: str, value: float) -> int:
    """The bits of ``value`` rounded to the format, ties to even; infinity on overflow."""
    try:
        packed = struct.pack(f"<{code}", value)
    except OverflowError:
        packed = struct.pack(f"<{code}", math.copysign(math.inf, value))
    return int.from_bytes(packed, "little")


def _saturated(scaled: float, word_bits: int) -> int:
    if math.isnan(scaled):
        return 0
    limit = 1 << (word_bits - 1)
    word = limit if scaled >= limit else -limit if scaled <= -limit else round(scaled)
    return max(-limit, min(limit - 1, word)) & ((1 << word_bits) - 1)


def _signed(word: int, word_bits: int) -> int:
    sign = 1 << (word_bits - 1)
    return (word ^ sign) - sign
