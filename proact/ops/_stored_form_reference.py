"""The stored forms in plain Python numbers: the meaning of csrc/core/stored_forms.hpp."""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Protocol

import numpy as np


class Form(Protocol):
    """How the value of an element is stored."""

    word_bits: int

    def encode(self, value: float, element: int = 0) -> int: ...
    def decode(self, word: int, element: int = 0) -> float: ...


class Fixed:
    """qM.N words of ``word_bits`` bits, of which ``fraction_bits`` are fraction."""

    def __init__(self, word_bits: int, fraction_bits: int) -> None:
        self.word_bits, self.fraction_bits = word_bits, fraction_bits

    def encode(self, value: float, element: int = 0) -> int:
        return _saturated(value * 2.0**self.fraction_bits, self.word_bits)

    def decode(self, word: int, element: int = 0) -> float:
        return _signed(word, self.word_bits) / 2.0**self.fraction_bits


class Scaled:
    """Signed integers times a float32 scale a channel."""

    def __init__(self, word_bits: int, address: int, channels: int, inner: int) -> None:
        self.word_bits, self._inner = word_bits, inner
        self._scales = np.ctypeslib.as_array((ctypes.c_float * channels).from_address(address))

    def _scale(self, element: int) -> float:
        return float(self._scales[element // self._inner % len(self._scales)])

    def encode(self, value: float, element: int = 0) -> int:
        return _saturated(value / self._scale(element), self.word_bits)

    def decode(self, word: int, element: int = 0) -> float:
        return _signed(word, self.word_bits) * self._scale(element)


class Narrow:
    """Floats stored in a narrower format."""

    def __init__(self, name: str) -> None:
        self.word_bits = 32 if name == "float32" else 16
        self._name = name

    def encode(self, value: float, element: int = 0) -> int:
        if self._name == "bfloat16":
            bits = _packed("f", value)
            if math.isnan(value):
                return 0x7FC0
            return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        if math.isnan(value) and self._name == "float16":
            return 0x7E00 | (0x8000 if math.copysign(1.0, value) < 0 else 0)
        return _packed("e" if self._name == "float16" else "f", value)

    def decode(self, word: int, element: int = 0) -> float:
        if self._name == "bfloat16":
            word, form = word << 16, ("<I", "<f")
        else:
            form = ("<H", "<e") if self._name == "float16" else ("<I", "<f")
        value: float = struct.unpack(form[1], struct.pack(form[0], word))[0]
        return value


_FORMS = {"fixed_point": Fixed, "scaled_integers": Scaled}


def form_of(native: tuple[str | int, ...]) -> Form | None:
    """The form that a native description names; None for memory's own words."""
    if not native:
        return None
    name, *numbers = native
    if name in _FORMS:
        form: Form = _FORMS[str(name)](*map(int, numbers))
        return form
    return Narrow(str(name))


def _packed(code: str, value: float) -> int:
    """The bits of ``value`` rounded to the format, ties to even; infinity where it is too large."""
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
