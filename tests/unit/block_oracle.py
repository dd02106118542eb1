"""Block formats in plain integers and fractions, from the definitions of their specifications."""

from __future__ import annotations

import math
from fractions import Fraction

from encoding_oracle import FloatFormat, Grid, Value, exponent_of

Element = FloatFormat | Grid


def largest_of(element: Element) -> Fraction:
    """The largest magnitude that rounding produces: the lowest integer occurs by faults only."""
    if isinstance(element, Grid):
        return ((1 << (element.bits - 1)) - 1) * element.step
    return Fraction(element.value(element.largest))


def nearest(element: Element, value: Fraction) -> Fraction:
    """The nearest value of an element, which saturates; of two equally near ones the even word."""
    largest = largest_of(element)
    clamped = max(-largest, min(largest, value))
    return Fraction(element.value(element.word(clamped)))


def power_of_two_scale(block: list[Fraction], element: Element) -> Fraction:
    """The scale of a block in an MX format: exponents are compared (OCP MX 1.0, section 6.3)."""
    largest = max(map(abs, block))
    if largest == 0:
        return Fraction(2) ** -127
    exponent = exponent_of(largest) - exponent_of(largest_of(element))
    return Fraction(2) ** max(-127, min(127, exponent))


def product(a: Value, b: Value) -> float:
    """The product of two values as a float; one that is not finite as IEEE 754 has it."""
    if math.isfinite(a) and math.isfinite(b):
        return float(Fraction(a) * Fraction(b))
    return float(a) * float(b)


def blocks_of(values: list[list[float]], block: int) -> list[list[Fraction]]:
    """The blocks of each row in turn, the last one of a row possibly shorter."""
    return [
        [Fraction(value) for value in row[begin : begin + block]]
        for row in values
        for begin in range(0, len(row), block)
    ]
