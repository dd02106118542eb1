"""Words with scales: integers or small floats that share a scale, and possibly a zero point."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import Elements, Floats, Word, Words, saturated_words, signed_values
from proact.encodings.scales import ScalePart
from proact.encodings.small_floats import FloatFormat, wide_layout
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.number_formats import ScaledFloatWord, ScaledIntegerWord
from proact.ops.rounding import rounded_to_words
from proact.ops.scale_plan import ScalePlan

#: How far a number can be beyond the largest one because its scale was rounded to an e4m3.
_ROUNDED_SCALE = 1.0 + 2.0**-4


class IntegerElement:
    """An integer in two's complement, or without a sign.

    Attributes:
        largest: the largest magnitude that rounding produces. The range of integers with a sign is
            symmetric; only faults produce the lowest word.
    """

    def __init__(self, bits: int, is_signed: bool = True) -> None:
        self.bits, self.is_signed = bits, is_signed
        self.all_bits = (1 << bits) - 1
        self.largest = float(self.all_bits >> is_signed)
        sign = 1 << (bits - 1)
        fields = {"sign": sign, "integer": sign - 1} if is_signed else {"integer": self.all_bits}
        self.fields = MappingProxyType(fields)

    def words(self, values: Floats, elements: Elements) -> Words:
        if self.is_signed:
            return saturated_words(values, self.bits)
        integers = np.clip(np.rint(np.nan_to_num(values)), 0, self.all_bits)
        words: Words = integers.astype(np.uint64)
        return words

    def values(self, words: Words, elements: Elements) -> Floats:
        return signed_values(words, self.bits) if self.is_signed else words.astype(np.float64)


class ScaledWord(Word):
    """A word whose value is (element - zero point) * scale.

    The scale of an element is the product of the stored numbers that it has in each part, and of
    ``unit``. Conversions use the clean scales, also while faults are in the memory of the parts;
    `reread` gives the values under the scales that are stored now. Clean scales are finite and
    not 0, and every product is exact in float32, so that the word of each value is known.

    Args:
        name: of the stored form.
        element: the form of the elements.
        parts: the scales, of which the first have the finest layout, and possibly zero points with
            the same layout.
        size: the number of elements of the tensor.
        unit: a fixed factor of all scales.
        is_block: whether the words belong to a block format. Rounding then clamps values to the
            largest magnitude of an element, and does not produce infinity or the lowest integer.

    Attributes:
        is_block: as given.
        scales: the clean scale of each number of the first part, float64 (n,).
        are_scales_changed: whether faults are in the memory of the parts.
    """

    is_native = True

    def __init__(
        self,
        name: str,
        element: IntegerElement | FloatFormat,
        parts: Sequence[ScalePart],
        size: int,
        unit: float = 1.0,
        is_block: bool = False,
    ) -> None:
        self.name, self.bits, self.fields = name, element.bits, element.fields
        self.element, self.parts, self.size = element, tuple(parts), size
        self._unit, self.is_block = unit, is_block
        self.layout = self.parts[0].layout
        self.are_scales_changed = False
        self.scales, self._zeros = self._stored(self._first_elements())
        self.form: ScaledFloatWord | ScaledIntegerWord = self._native_form()

    @property
    def has_zero_points(self) -> bool:
        return any(part.is_zero_point for part in self.parts)

    @property
    def _with_payloads(self) -> FloatFormat | None:
        """The elements, if several of their words are NaN."""
        element = self.element
        return element if isinstance(element, FloatFormat) and element.has_inf else None

    def words(self, values: Floats, elements: Elements) -> Words:
        numbers = self.layout.numbers(elements)
        scaled = values / self.scales[numbers]
        if self.has_zero_points:
            scaled = np.rint(np.where(np.isnan(scaled), 0.0, scaled)) + self._zeros[numbers]
        return self.element.words(scaled, elements)

    def values(self, words: Words, elements: Elements) -> Floats:
        numbers = self.layout.numbers(elements)
        plain = self.element.values(words, elements) - self._zeros[numbers]
        return self._times(plain, self.scales[numbers])

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        words, form = super().words_in(memory, dtype, elements), self._with_payloads
        return words if form is None else form.with_nan_of(words, memory, wide_layout(dtype))

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        memory, form = super().memory_of(words, dtype, elements), self._with_payloads
        return memory if form is None else form.with_nan_in(memory, words, wide_layout(dtype))

    def reread(self, values: Floats, elements: Elements) -> Floats:
        """The values of elements under the scales and zero points that are stored now.

        Args:
            values: their values under the clean ones, float64 (n,). A quotient by the clean scale
                is the exact number that the word stands for.
            elements: their row-major indices, uint64 (n,).
        """
        numbers = self.layout.numbers(elements)
        scales, zeros = self._stored(elements)
        with np.errstate(over="ignore", invalid="ignore"):
            plain = values / self.scales[numbers]
            if self.has_zero_points:
                plain += self._zeros[numbers] - zeros
            return self._times(plain, scales)

    def with_parts(self, parts: Sequence[ScalePart]) -> ScaledWord:
        """The same elements with other scales, which need not be finite."""
        other = copy.copy(self)
        other.parts = tuple(parts)
        other.scales, other._zeros = other._stored(self._first_elements())
        return other

    def add_to(self, plan: ScalePlan, stored: StoredTensor) -> None:
        """Adds the tensor of these words to a plan: native code then does what `reread` does."""
        parts = [part.native for part in self.parts]
        plan.add(stored.name, stored.tensor, self.form, self._unit, parts)

    def rounded(self, tensor: Tensor) -> Tensor:
        values = self._clamped(tensor) if self.is_block else tensor
        result = rounded_to_words(values, self.form)
        return super().rounded(values) if result is None else result

    def saturates(self, tensor: Tensor) -> Tensor:
        numbers = tensor.detach().double().cpu().reshape(-1) / self._of_each(self.scales)
        numbers += self._of_each(self._zeros)
        largest = self.element.largest
        if self.is_block:
            # Scales of blocks are chosen so that somewhat larger numbers are clamped, but the
            # largest scale has none above it, except that it can have been rounded.
            is_top = self.parts[0].values(np.arange(len(self.scales))) >= self.parts[0].largest
            most = self._of_each(largest * np.where(is_top, _ROUNDED_SCALE, 2.0))
            beyond = numbers.abs() > most
        else:
            beyond = (numbers > largest + 0.5) | (numbers < -largest - 1.5)
        return beyond.to(tensor.device).view(tensor.shape)

    def stored_bits(self, elements: int) -> int:
        """The bits of all elements, of those that fill up the last block of each row, and of the
        scales and zero points."""
        padded = elements
        if self.layout.stride:
            rows = -(-elements // self.layout.row)
            padded = rows * self.layout.stride * self.layout.block
        return self.bits * padded + sum(part.bits for part in self.parts)

    def _times(self, plain: Floats, scales: Floats) -> Floats:
        """Elements times their scales; integers have no -0.0, which adding 0 turns into 0."""
        product: Floats = plain * scales
        return product + 0.0 if isinstance(self.element, IntegerElement) else product

    def _stored(self, elements: Elements) -> tuple[Floats, Floats]:
        """The scales and zero points that the parts store for elements now, float64 (n,)."""
        scales, zeros = np.full(len(elements), self._unit), np.zeros(len(elements))
        for part in self.parts:
            values = part.values(part.layout.numbers(elements))
            if part.is_zero_point:
                zeros = values
            else:
                with np.errstate(over="ignore", invalid="ignore"):
                    scales = scales * values
        return scales, zeros

    def _first_elements(self) -> Elements:
        """The first element that has each number of the first part."""
        numbers = np.arange(self.parts[0].memory.numel())
        return self.layout.first_elements(numbers).astype(np.uint64)

    def _native_form(self) -> ScaledFloatWord | ScaledIntegerWord:
        table = self.scales.astype(np.float32)
        assert np.array_equal(table.astype(np.float64), self.scales), "scales must fit float32"
        scales = torch.from_numpy(table)
        if isinstance(self.element, FloatFormat):
            return ScaledFloatWord(self.element.form, scales, self.layout)
        zeros = torch.from_numpy(self._zeros.astype(np.int32)) if self.has_zero_points else None
        return ScaledIntegerWord(self.bits, scales, self.layout, self.element.is_signed, zeros)

    def _clamped(self, tensor: Tensor) -> Tensor:
        if self.has_zero_points:
            return tensor
        top = self._of_each(self.scales * self.element.largest)
        top = top.to(tensor.device, tensor.dtype).view(tensor.shape)
        return torch.minimum(torch.maximum(tensor.detach(), -top), top)

    def _of_each(self, numbers: Floats) -> Tensor:
        """The number of each element of a tensor, float64 (size,), from those of the first part."""
        row, block, stride = self.layout
        blocks = torch.from_numpy(numbers).view(-1, stride or len(numbers))
        each = blocks.repeat_interleave(block, dim=1)[:, :row].reshape(-1)
        if not stride:
            each = each.repeat(-(-self.size // row))
        return each[: self.size]


@dataclass(frozen=True, eq=False)
class StoredScale(StoredTensor):
    """Scales or zero points of a tensor, described as a stored tensor of their own.

    Attributes:
        of: the tensor whose elements have these scales.
        part: the scales.
        scaled: the stored form of the elements.
    """

    of: StoredTensor
    part: ScalePart
    scaled: ScaledWord


def owner_of(stored: StoredTensor) -> StoredTensor:
    """The tensor of the model that holds the stored numbers, or whose scales they are."""
    return stored.of if isinstance(stored, StoredScale) else stored


def scales_of(stored: StoredTensor, word: Word) -> list[StoredScale]:
    """The scales and zero points of a tensor with the given stored form, which may be coded.

    A name is that of the tensor, a colon and the name of the part.
    """
    scaled = word.uncoded
    if not isinstance(scaled, ScaledWord):
        return []

    def described(part: ScalePart) -> StoredScale:
        names = tuple(f"{name}:{part.name}" for name in stored.names)
        name, place = f"{stored.name}:{part.name}", (stored.layer, stored.layer_types)
        return StoredScale(name, names, part.memory, *place, "scale", False, stored, part, scaled)

    return [described(part) for part in scaled.parts]
