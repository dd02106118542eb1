"""What stored words mean, in plain integers and fractions: the tests' own reading of the formats.

Slow, and nothing of proact is called. A value is a float or a fraction; a word is an integer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor, nn

from proact.encodings import Encoding
from proact.faults import Fault, encode, inject

Value = Fraction | float


class Stored(Protocol):
    """A stored form: words of ``bits`` bits."""

    @property
    def bits(self) -> int: ...
    def word(self, value: Value) -> int: ...
    def value(self, word: int) -> Value: ...


@dataclass(frozen=True)
class FloatFormat:
    """IEEE 754 binary interchange formats, bfloat16, and formats with other biases or without
    infinity or NaN."""

    exponent: int
    mantissa: int
    bias: int | None = None
    has_inf: bool = True
    has_nan: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def infinity(self) -> int:
        return ((1 << self.exponent) - 1) << self.mantissa

    @property
    def largest(self) -> int:
        """The word of the largest finite number."""
        if self.has_inf:
            return self.infinity - 1
        return (1 << (self.bits - 1)) - 1 - self.has_nan

    @property
    def _lowest(self) -> int:
        """The exponent of two of the smallest normal number."""
        return 1 - ((1 << (self.exponent - 1)) - 1 if self.bias is None else self.bias)

    def word(self, value: Value) -> int:
        is_negative = math.copysign(1.0, value) < 0 if isinstance(value, float) else value < 0
        sign = is_negative << (self.bits - 1)
        beyond = self.largest + self.has_inf
        if isinstance(value, float) and math.isnan(value):
            if not self.has_nan:
                return 0
            return self.infinity | 1 << (self.mantissa - 1) if self.has_inf else self.largest + 1
        if isinstance(value, float) and math.isinf(value):
            return sign | beyond
        magnitude = abs(Fraction(value))
        exponent = max(exponent_of(magnitude), self._lowest) if magnitude else self._lowest
        # round() of a fraction is exact, ties to even. The leading one of a normal number, and the
        # carry of one that rounds up to the next power of two, add to the exponent.
        digits = magnitude / Fraction(2) ** (exponent - self.mantissa)
        first = (exponent - self._lowest) << self.mantissa
        # Without a mantissa, the lowest bit of the exponent says which word is even.
        word = round(digits) + first if self.mantissa else round(digits + first)
        return sign | min(word, beyond)

    def value(self, word: int) -> float:
        sign = -1.0 if word >> (self.bits - 1) else 1.0
        exponent = word >> self.mantissa & ((1 << self.exponent) - 1)
        digits = word & ((1 << self.mantissa) - 1)
        if self.has_inf and exponent == (1 << self.exponent) - 1:
            return math.nan if digits else sign * math.inf
        if word % (1 << (self.bits - 1)) > self.largest:
            return math.nan
        if exponent:
            digits, exponent = digits + (1 << self.mantissa), exponent - 1
        return sign * float(digits * Fraction(2) ** (self._lowest + exponent - self.mantissa))


FORMATS = {
    torch.float16: FloatFormat(5, 10),
    torch.bfloat16: FloatFormat(8, 7),
    torch.float32: FloatFormat(8, 23),
    torch.float64: FloatFormat(11, 52),
}
#: By name; those of 8 bits and less as the Open Compute Project defines them.
SMALL = {
    "float8_e4m3": FloatFormat(4, 3, has_inf=False),
    "float8_e5m2": FloatFormat(5, 2),
    "e3m2": FloatFormat(3, 2, has_inf=False, has_nan=False),
    "e2m3": FloatFormat(2, 3, has_inf=False, has_nan=False),
    "e2m1": FloatFormat(2, 1, has_inf=False, has_nan=False),
    "e3m0": FloatFormat(3, 0, has_inf=False, has_nan=False),
    "e3m4b-2n": FloatFormat(3, 4, bias=-2, has_inf=False),
    "e4m3b8f": FloatFormat(4, 3, bias=8, has_inf=False, has_nan=False),
    "e4m3i": FloatFormat(4, 3),
    "e5m10": FloatFormat(5, 10),
    "e8m7": FloatFormat(8, 7),
    "e1m6": FloatFormat(1, 6),
}


def around(form: FloatFormat) -> list[Value]:
    """Values that a float format rounds, holds or cannot hold."""
    half_last = Fraction(2) ** -(form.mantissa + 1)  # of the last digit of 1
    smallest = Fraction(form.value(1))
    largest = Fraction(form.value(form.largest))
    overflow = largest + (largest - Fraction(form.value(form.largest - 1))) / 2
    below = 1 - Fraction(2) ** -20
    positive: list[Value] = [
        0.0, 0.1, 1.0, 1.25, math.pi, math.inf,
        1 + half_last, 1 + 3 * half_last, 1 + half_last * below, 1 + half_last / below,
        smallest, smallest / 2, smallest / 2 / below, smallest * 3 / 2, smallest * 5 / 2,
        form.value(1 << form.mantissa), form.value((1 << form.mantissa) - 1),
        form.value((1 << form.mantissa) // 2),
        largest, overflow, overflow * below, 2 * overflow,
    ]  # fmt: skip
    return [*positive, *(-value for value in positive), *([math.nan] if form.has_nan else [])]


@dataclass(frozen=True)
class Grid:
    """Two's complement times a step, saturating: fixed point and scaled integers."""

    bits: int
    step: Fraction

    def word(self, value: Value) -> int:
        limit = 1 << (self.bits - 1)
        if isinstance(value, float) and math.isinf(value):
            nearest = limit - 1 if value > 0 else -limit
        else:
            nearest = max(-limit, min(limit - 1, round(Fraction(value) / self.step)))
        return nearest % (1 << self.bits)

    def value(self, word: int) -> Fraction:
        return (word - ((word >> (self.bits - 1)) << self.bits)) * self.step


@dataclass(frozen=True)
class Memory:
    """Words that stand for themselves."""

    bits: int

    def word(self, value: Value) -> int:
        raise AssertionError("the memory word is the stored word")

    def value(self, word: int) -> Value:
        raise AssertionError("the stored word is the memory word")


def q(integer: int, fraction: int) -> Grid:
    return Grid(1 + integer + fraction, Fraction(1, 1 << fraction))


def scale_of(largest: Value, bits: int = 8) -> Fraction:
    """A channel's scale: its largest magnitude gets the word 2^(bits-1) - 1, and the product of any
    word and the scale is a float32: has 24 binary digits at most and is not infinite."""
    exact = max(Fraction(largest) / ((1 << (bits - 1)) - 1), Fraction(1, 1 << 23))
    digit = Fraction(2) ** (exponent_of(exact) - (24 - bits))
    most = (2 - Fraction(1, 1 << (24 - bits))) * Fraction(2) ** (128 - bits)
    return min(math.ceil(exact / digit) * digit, most)


def exponent_of(magnitude: Fraction) -> int:
    """The e with 2^e <= magnitude < 2^(e + 1)."""
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return exponent - (magnitude < Fraction(2) ** exponent)


def memory_word(stored: Stored, value: Value, memory: torch.dtype, flips: int = 0) -> int:
    """The memory word after ``value`` was stored and the bits of ``flips`` were flipped."""
    return FORMATS[memory].word(stored.value(stored.word(value) ^ flips))


def words_of(tensor: Tensor) -> list[int]:
    """The memory words of a tensor, as unsigned integers."""
    width = tensor.element_size()
    raw = bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())
    return [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]


def tensor_of(words: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of memory words."""
    raw = b"".join(word.to_bytes(dtype.itemsize, "little") for word in words)
    return torch.frombuffer(bytearray(raw), dtype=dtype).clone()


def floats_of(values: Sequence[Value], dtype: torch.dtype) -> Tensor:
    """A tensor of the numbers that are nearest to ``values``."""
    return tensor_of([FORMATS[dtype].word(value) for value in values], dtype)


def wrong_numbers(
    got: Sequence[int], expected: Sequence[int], dtype: torch.dtype
) -> list[tuple[int, str, str]]:
    """(index, got, expected) of the memory words that differ; any NaN equals any other."""
    form = FORMATS[dtype]
    return [
        (i, hex(a), hex(b))
        for i, (a, b) in enumerate(zip(got, expected, strict=True))
        if a != b and not (math.isnan(form.value(a)) and math.isnan(form.value(b)))
    ]


def holding(tensor: Tensor) -> nn.Module:
    """A network whose one parameter or buffer, ``weight``, is a copy of ``tensor``."""
    model = nn.Module()
    if tensor.is_floating_point():
        model.weight = nn.Parameter(tensor.clone())
    else:
        model.register_buffer("weight", tensor.clone())
    return model


def weight_of(model: nn.Module) -> Tensor:
    weight = model.weight
    assert isinstance(weight, Tensor)
    return weight


def encoded(model: nn.Module, encoding: str | Encoding) -> nn.Module:
    """`encode`, where it does not matter what saturates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* were saturated", UserWarning)
        return encode(model, encoding)


def faulted(model: nn.Module, fault: Fault | Sequence[Fault], encoding: str | Encoding) -> Tensor:
    """The weight as it is inside an injection with seed 1, trial 2."""
    with inject(model, fault, encoding, seed=1, trial=2):
        return weight_of(model).detach().clone()
