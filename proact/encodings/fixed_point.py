"""Fixed point qM.N."""

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
    """qM.N: 1 sign, M integer and N fraction bits, two's complement, saturating, ties to even."""

    has_nan = False
    is_native = True

    def __init__(self, integer_bits: int, fraction_bits: int) -> None:
        self.name = f"q{integer_bits}.{fraction_bits}"
        self.bits = 1 + integer_bits + fraction_bits
        if not 2 <= self.bits <= 32:
            raise ValueError(
                f"a fixed-point word has 2 to 32 bits, and {self.name} has {self.bits}"
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
        # Powers of two scale exactly, so the only rounding is to the grid (and, for words of more
        # digits than a float32 has, back to the float).
        grid = torch.round(
            torch.nan_to_num(tensor.double(), 0.0, torch.inf, -torch.inf).mul_(self._scale)
        ).clamp_(-self._limit, self._limit - 1)
        # Adding 0 turns -0.0, which two's complement lacks, into 0.0.
        return (grid.div_(self._scale) + 0.0).to(tensor.dtype)

    def saturates(self, tensor: Tensor) -> Tensor:
        grid = torch.round(tensor.double() * self._scale)
        # A float32 that was rounded up to the limit is the largest word's own value.
        own = self.rounded(tensor) == tensor
        return ((grid > self._limit - 1) | (grid < -self._limit)) & ~own

    def words(self, values: Floats, elements: Elements) -> Words:
        with np.errstate(over="ignore"):  # infinity saturates like every large number
            return saturated_words(values * self._scale, self.bits)

    def values(self, words: Words, elements: Elements) -> Floats:
        return signed_values(words, self.bits) / self._scale
