"""Scales: numbers that several elements of a tensor share, and that are stored beside them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import Elements, Floats, MemoryWord, Words, integers_of, unsigned_memory
from proact.encodings.small_floats import FloatFormat, MemoryFloat8
from proact.ops.number_formats import NativeForm, ScaleLayout
from proact.ops.scale_plan import NativeScales


@dataclass(frozen=True, eq=False)
class ScalePart:
    """Stored numbers of which a tensor's scales or zero points are made.

    Attributes:
        name: ``"scale"``, ``"tensor_scale"`` or ``"zero_point"``.
        memory: the stored words, (n,), contiguous, on the device of the tensor. Faults change them
            in place.
        word: the stored form of one of them.
        layout: the number that each element of the tensor has.
    """

    name: str
    memory: Tensor
    word: MemoryWord
    layout: ScaleLayout

    @property
    def is_zero_point(self) -> bool:
        return self.name == "zero_point"

    @property
    def native(self) -> NativeScales:
        """The description for native code."""
        form: NativeForm
        if isinstance(self.word, PowerOfTwo):
            form = ("power_of_two",)
        elif isinstance(self.word, Unsigned):
            form = ("integer",)
        elif isinstance(self.word, MemoryFloat8):
            form = self.word.definition.form.native
        elif self.memory.dtype == torch.float32:
            form = ("float32",)
        else:
            form = FloatFormat(5, 10).form.native  # float16
        return NativeScales(self.memory, form, self.layout, self.is_zero_point)

    @property
    def bits(self) -> int:
        """The number of stored bits."""
        return self.word.bits * self.memory.numel()

    @property
    def largest(self) -> float:
        """The largest finite value that a stored number can have."""
        if self.word.bits > 16:
            return float(torch.finfo(self.memory.dtype).max)
        words = np.arange(1 << self.word.bits, dtype=np.uint64)
        values = self.word.values(words, np.zeros(len(words), np.uint64))
        return float(values[np.isfinite(values)].max())

    def values(self, numbers: np.ndarray) -> Floats:
        """The values that are stored now, with the given numbers, float64 (n,)."""
        words = unsigned_memory(integers_of(self.memory).cpu().numpy()[numbers])
        return self.word.values(words, np.zeros(len(words), np.uint64))

    def on(self, device: torch.device) -> ScalePart:
        """The same numbers in memory of a device; the part itself if it is there."""
        return replace(self, memory=self.memory.to(device))


class PowerOfTwo(MemoryWord):
    """``e8m0``: an exponent of 8 bits. The word w is 2^(w - 127), and 255 is NaN.

    OCP Microscaling Formats (MX) Specification 1.0, section 5.4.1.
    """

    name, bits = "e8m0", 8
    fields = MappingProxyType({"exponent": 0xFF})

    def words(self, values: Floats, elements: Elements) -> Words:
        _, above = np.frexp(np.where(np.isfinite(values), values, 1.0))
        words: Words = np.where(np.isfinite(values), np.clip(above + 126, 0, 254), 255)
        return words.astype(np.uint64)

    def values(self, words: Words, elements: Elements) -> Floats:
        exponents = words.astype(np.int64) - 127
        return np.where(words == 255, np.nan, np.ldexp(1.0, exponents))


class Unsigned(MemoryWord):
    """``uint4`` and the like: an integer without a sign, in the lowest bits of a byte."""

    def __init__(self, bits: int) -> None:
        self.name, self.bits = f"uint{bits}", bits
        self.fields = MappingProxyType({"integer": (1 << bits) - 1})

    def words(self, values: Floats, elements: Elements) -> Words:
        words: Words = np.clip(np.rint(values), 0, self.all_bits).astype(np.uint64)
        return words

    def values(self, words: Words, elements: Elements) -> Floats:
        return words.astype(np.float64)


def scale_part(
    name: str, values: Floats, word: MemoryWord, dtype: torch.dtype, layout: ScaleLayout
) -> ScalePart:
    """Stores scales or zero points, float64 (n,), in host memory of a dtype.

    The word is named after its format and the part, so that ``per_bit`` tells it from other words.
    """
    named = copy.copy(word)
    named.name = f"{word.name} {name.replace('_', ' ')}"
    words = word.words(values, np.zeros(len(values), np.uint64))
    raw = words.astype(f"u{dtype.itemsize}")
    memory = torch.from_numpy(raw.view(f"i{dtype.itemsize}")).view(dtype)
    return ScalePart(name, memory, named, layout)
