"""Fixed-point encodings qM.N."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import (
    Elements,
    Floats,
    UniformEncoding,
    Words,
    saturated_words,
    signed_values,
)
from proact.ops.number_formats import FixedPointWord


class FixedPoint(UniformEncoding):
    """qM.N: two's complement with 1 sign, M integer and N fraction bits.

    Values are rounded to nearest, ties to even, and saturate.
    """

    has_nan = False
    is_native = True

    def __init__(self, integer_bits: int, fraction_bits: int) -> None:
        self.name = f"q{integer_bits}.{fraction_bits}"
        self.bits = 1 + integer_bits + fraction_bits
        if not 2 <= self.bits <= 32:
            raise ValueError(
                f"a fixed-point word must have 2 to 32 bits, and {self.name} has {self.bits}"
            )
        self.form = FixedPointWord(self.bits, fraction_bits)
        fields = {
            "sign": 1 << (self.bits - 1),
            "integer": ((1 << integer_bits) - 1) << fraction_bits,
            "fraction": (1 << fraction_bits) - 1,
        }
        self.fields = MappingProxyType({name: mask for name, mask in fields.items() if mask})
        self._limit = 2.0 ** (self.bits - 1)
        self._scale = 2.0**fraction_bits

    def rounded(self, tensor: Tensor) -> Tensor:
        # Scaling by powers of two is exact. Only the grid rounds, and the conversion to the float
        # if the word has more digits than the float.
        grid = torch.round(
            torch.nan_to_num(tensor.double(), 0.0, torch.inf, -torch.inf).mul_(self._scale)
        ).clamp_(-self._limit, self._limit - 1)
        # Adding 0 turns -0.0, which two's complement does not have, into 0.0.
        return (grid.div_(self._scale) + 0.0).to(tensor.dtype)

    def saturates(self, tensor: Tensor) -> Tensor:
        grid = torch.round(tensor.double() * self._scale)
        # A float32 that equals the limit is the rounded value of the largest word.
        own = self.rounded(tensor) == tensor
        return ((grid > self._limit - 1) | (grid < -self._limit)) & ~own

    def words(self, values: Floats, elements: Elements) -> Words:
        with np.errstate(over="ignore"):  # infinity saturates like every large number
            return saturated_words(values * self._scale, self.bits)

    def values(self, words: Words, elements: Elements) -> Floats:
        return signed_values(words, self.bits) / self._scale
