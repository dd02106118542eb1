"""Floats of up to 16 bits with any numbers of exponent and mantissa bits, such as float8_e4m3."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import (
    Elements,
    Floats,
    MemoryWord,
    UniformEncoding,
    Word,
    Words,
    integers_of,
    signed_memory,
    unsigned_memory,
)
from proact.encodings.floats import FloatLayout, memory_float
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.number_formats import SmallFloatWord
from proact.ops.rounding import rounded_to_words
from proact.text import short_repr

#: The names of formats that have one of their own, by the bits of exponent and mantissa.
_NAMES = {(4, 3): "float8_e4m3", (5, 2): "float8_e5m2"}
_DTYPES = {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
#: Whether a format has infinity and NaN, by the bits of exponent and mantissa: as in the OCP 8-bit
#: Floating Point Specification 1.0 and OCP Microscaling Formats 1.0. Other formats have both.
_SPECIALS = {
    (4, 3): (False, True),
    (3, 2): (False, False),
    (2, 3): (False, False),
    (2, 1): (False, False),
}
#: The last letter of a name: whether the format has infinity and NaN.
_LETTERS = {"i": (True, True), "n": (False, True), "f": (False, False)}
_PATTERN = re.compile(r"e(\d{1,2})m(\d{1,2})(?:b(-?\d{1,3}))?([inf])?")
_FEWEST_BITS, _MOST_BITS, _MOST_EXPONENT_BITS = 3, 16, 8
#: No format has values of float32 with a larger bias.
_LARGEST_BIAS = 400
_CHUNK = 1 << 18  # elements rounded at a time, which keeps the float64 copies small


class FloatFormat(UniformEncoding, FloatLayout):
    """A float32 or float64 stored in 3 to 16 bits: 1 sign, ``exponent`` and ``mantissa`` bits.

    Tensors of ``torch.float8_e4m3fn`` and ``torch.float8_e5m2`` are faulted in their own bits.

    A word with the exponent field E and the mantissa field M has the value

        (1 + M / 2^mantissa) 2^(E - bias)    if E > 0
        M / 2^mantissa * 2^(1 - bias)        if E = 0

    The highest E holds infinity (M = 0) and NaN if the format has infinity. If it has only NaN, NaN
    is the word of ones. Values are rounded to the nearest word, or to the even one of two equally
    near ones. Values beyond the largest one, and infinity, become infinity, or the largest one if
    the format has no infinity. A format without NaN cannot store it.

    The name is ``float8_e4m3``, ``float8_e5m2`` or, for other formats, ``e3m2`` and the like. ``b``
    with a number follows if the bias is not 2^(exponent-1) - 1, and a letter if the special values
    are not the default ones: ``i`` (infinity and NaN), ``n`` (NaN only) or ``f`` (neither), as in
    ``e4m3b8f``.

    Args:
        exponent: number of exponent bits, 1 to 8.
        mantissa: number of mantissa bits, 0 to 14.
        bias: of the exponent; 2^(exponent-1) - 1 by default.
        has_inf, has_nan: whether the format has infinity and NaN. By default e4m3 has only NaN,
            e3m2, e2m3 and e2m1 have neither (OCP), and all others have both.

    Raises:
        ValueError: a number out of range, infinity without NaN, or values that are not values of
            float32.
        TypeError: an argument of another type.
    """

    is_native = True
    form: SmallFloatWord

    def __init__(
        self,
        exponent: int,
        mantissa: int,
        bias: int | None = None,
        has_inf: bool | None = None,
        has_nan: bool | None = None,
    ) -> None:
        _check_bits(exponent, mantissa)
        usual = (1 << (exponent - 1)) - 1
        self.bias = usual if bias is None else _checked_bias(bias)
        defaults = _SPECIALS.get((exponent, mantissa), (mantissa > 0, mantissa > 0))
        self.has_inf = defaults[0] if has_inf is None else _checked_choice("has_inf", has_inf)
        self.has_nan = defaults[1] if has_nan is None else _checked_choice("has_nan", has_nan)
        if self.has_inf and not (self.has_nan and mantissa):
            raise ValueError(
                "a format with infinity has NaN and a mantissa bit: the highest exponent holds "
                f"both; got has_inf={has_inf}, has_nan={has_nan} and mantissa={mantissa}"
            )
        specials = self.has_inf, self.has_nan
        letter = next(each for each, found in _LETTERS.items() if found == specials)
        plain = f"e{exponent}m{mantissa}"
        if self.bias == usual and specials == defaults:
            name = _NAMES.get((exponent, mantissa), plain)
        else:
            name = plain + (f"b{self.bias}" if self.bias != usual else "")
            name += letter if specials != defaults else ""
        FloatLayout.__init__(self, name, exponent, mantissa)
        self._sign = np.uint64(self.fields["sign"])
        #: The magnitudes of words without their sign, float64: the inverse of the words.
        self._magnitudes = self._read(np.arange(1 << (self.bits - 1), dtype=np.uint64))
        ones = (1 << (self.bits - 1)) - 1
        self.largest_word = self.fields["exponent"] - 1 if self.has_inf else ones - self.has_nan
        self._refuse_others_than_float32()
        self.form = SmallFloatWord(exponent, mantissa, self.bias, self.has_inf, self.has_nan)

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return float(self._magnitudes[self.largest_word])

    def word(self, stored: StoredTensor) -> Word:
        if stored.tensor.dtype == _DTYPES.get(self.name):
            return MemoryFloat8(self)
        return super().word(stored)

    def words(self, values: Floats, elements: Elements) -> Words:
        magnitudes = np.abs(values)
        nearest = np.minimum(self._unlimited(magnitudes), self.largest_word + self.has_inf)
        is_nan = np.isnan(magnitudes)
        nearest[is_nan] = self._nan_word
        is_negative = np.signbit(values) & (self.has_nan | ~is_nan)
        words: Words = nearest.astype(np.uint64) | is_negative * self._sign
        return words

    def values(self, words: Words, elements: Elements) -> Floats:
        magnitudes = self._magnitudes[words & ~self._sign]
        values: Floats = np.where(words & self._sign, -magnitudes, magnitudes)
        return values

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        words = super().words_in(memory, dtype, elements)
        return self.with_nan_of(words, memory, wide_layout(dtype)) if self.has_inf else words

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        memory = super().memory_of(words, dtype, elements)
        return self.with_nan_in(memory, words, wide_layout(dtype)) if self.has_inf else memory

    def rounded(self, tensor: Tensor) -> Tensor:
        dtype = _DTYPES.get(self.name)
        if dtype is not None and tensor.dtype == torch.float32 and not torch.isnan(tensor).any():
            # torch makes NaN of what is beyond the range of e4m3.
            bound = math.inf if self.has_inf else self.largest
            return tensor.detach().clamp(-bound, bound).to(dtype).to(torch.float32)
        by_native_code = rounded_to_words(tensor, self.form)
        if by_native_code is not None:
            return by_native_code
        result = tensor.detach().contiguous().clone()
        memory = integers_of(result).reshape(-1)
        on_cpu, nowhere = memory.cpu(), np.empty(0, np.uint64)
        for begin in range(0, len(on_cpu), _CHUNK):
            part = on_cpu[begin : begin + _CHUNK]
            words = self.words_in(unsigned_memory(part.numpy()), tensor.dtype, nowhere)
            stored = self.memory_of(words, tensor.dtype, nowhere)
            part.copy_(torch.from_numpy(signed_memory(stored, tensor.element_size())))
        if on_cpu is not memory:
            memory.copy_(on_cpu)
        return result

    def saturates(self, tensor: Tensor) -> Tensor:
        magnitudes = tensor.detach().double().abs()
        # The middle between the largest value and the next one, if the exponent field had no end.
        exponent = max(math.frexp(self.largest)[1] - 1, 1 - self.bias)
        middle = self.largest + math.ldexp(0.5, exponent - self.mantissa_bits)
        is_odd = self.largest_word % 2 == 1  # of two equally near words, the even one is taken
        beyond = magnitudes >= middle if is_odd else magnitudes > middle
        return beyond & magnitudes.isfinite() if self.has_inf else beyond

    def _unlimited(self, magnitudes: Floats) -> Floats:
        """The words nearest to magnitudes, as if the exponent field had no end; that of infinity is
        infinity, and that of NaN any number."""
        finite = np.where(np.isfinite(magnitudes), magnitudes, 0.0)
        _, above = np.frexp(finite)  # the magnitude lies in [2^(above-1), 2^above)
        # The exponent of the last mantissa bit, which is not below that of subnormal numbers.
        exponent = np.where(finite > 0.0, above - 1, 1 - self.bias)
        last = np.maximum(exponent, 1 - self.bias) - self.mantissa_bits
        steps = np.ldexp(finite, -last)
        # The implicit bit of the steps adds 1 to the exponent field. So does a magnitude that is
        # rounded up to a power of two.
        field = (last + self.mantissa_bits + self.bias - 1).astype(np.float64)
        below = field * 2.0**self.mantissa_bits + np.floor(steps)
        rest = steps - np.floor(steps)
        is_above = (rest > 0.5) | ((rest == 0.5) & (below % 2.0 == 1.0))
        words: Floats = np.where(np.isinf(magnitudes), np.inf, below + is_above)
        return words

    @property
    def _nan_word(self) -> int:
        """The word of a positive NaN without a payload."""
        if not self.has_nan:
            return 0
        if self.has_inf:
            return self.fields["exponent"] | 1 << (self.mantissa_bits - 1)
        return self.largest_word + 1

    def _read(self, words: Words) -> Floats:
        """The magnitudes of words without a sign, by the definition of the format."""
        mantissa = (words & np.uint64((1 << self.mantissa_bits) - 1)).astype(np.float64)
        field = (words >> np.uint64(self.mantissa_bits)).astype(np.int64)
        implicit = np.where(field > 0, 2.0**self.mantissa_bits, 0.0)
        last = np.maximum(field, 1) - self.bias - self.mantissa_bits
        values: Floats = np.ldexp(mantissa + implicit, last)
        is_highest = words & np.uint64(self.fields["exponent"]) == self.fields["exponent"]
        if self.has_inf:
            values[is_highest] = np.where(mantissa[is_highest] > 0.0, np.nan, np.inf)
        elif self.has_nan:
            values[-1] = np.nan
        return values

    def _refuse_others_than_float32(self) -> None:
        """ValueError if a value is not a value of float32, whose memory holds it."""
        with np.errstate(over="ignore"):
            there = self._magnitudes.astype(np.float32).astype(np.float64)
        finite = there[: self.largest_word + 1]
        is_exact = np.array_equal(there, self._magnitudes, equal_nan=True)
        if not (is_exact and np.isfinite(finite).all() and np.all(np.diff(finite) > 0.0)):
            raise ValueError(
                f"the values of {self.name} must be values of float32; with the bias {self.bias}, "
                "some are too large or too small"
            )


class MemoryFloat8(MemoryWord, FloatLayout):
    """A float of 8 bits that memory holds as it is stored."""

    def __init__(self, form: FloatFormat) -> None:
        FloatLayout.__init__(self, form.name, form.exponent_bits, form.mantissa_bits)
        self.definition = form

    def words(self, values: Floats, elements: Elements) -> Words:
        return self.definition.words(values, elements)

    def values(self, words: Words, elements: Elements) -> Floats:
        return self.definition.values(words, elements)


def memory_float8(dtype: torch.dtype) -> MemoryFloat8 | None:
    """The word of a dtype such as ``torch.float8_e4m3fn``; None for other dtypes."""
    for (exponent, mantissa), name in _NAMES.items():
        if dtype == _DTYPES[name]:
            return MemoryFloat8(FloatFormat(exponent, mantissa))
    return None


def small_float_named(name: str) -> FloatFormat | None:
    """The format of a name such as ``float8_e4m3`` or ``e3m2``; None if it is not one.

    Raises:
        ValueError: numbers that make no format.
    """
    for (exponent, mantissa), known in _NAMES.items():
        if name == known:
            return FloatFormat(exponent, mantissa)
    match = _PATTERN.fullmatch(name)
    if match is None:
        return None
    bias = None if match[3] is None else int(match[3])
    specials = _LETTERS[match[4]] if match[4] else (None, None)
    return FloatFormat(int(match[1]), int(match[2]), bias, *specials)


def wide_layout(dtype: torch.dtype) -> FloatLayout:
    """The layout of the floats in memory that hold the values of small ones."""
    word = memory_float(dtype)
    assert word is not None
    return word


def _check_bits(exponent: object, mantissa: object) -> None:
    e, m = _checked_integer("exponent", exponent), _checked_integer("mantissa", mantissa)
    if not (1 <= e <= _MOST_EXPONENT_BITS and m >= 0 and _FEWEST_BITS <= 1 + e + m <= _MOST_BITS):
        raise ValueError(
            f"a float has {_FEWEST_BITS} to {_MOST_BITS} bits, of these 1 to {_MOST_EXPONENT_BITS} "
            f"exponent bits and 0 or more mantissa bits, got exponent={e} and mantissa={m}"
        )


def _checked_integer(name: str, given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"{name} must be an integer, got {short_repr(given)}")
    return given


def _checked_bias(given: object) -> int:
    bias = _checked_integer("bias", given)
    if abs(bias) > _LARGEST_BIAS:
        raise ValueError(f"bias lies in [-{_LARGEST_BIAS}, {_LARGEST_BIAS}], got {bias}")
    return bias


def _checked_choice(name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"{name} must be True or False, got {short_repr(given)}")
    return given
