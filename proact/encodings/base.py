"""What an encoding is: which word a number is stored as, and back."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.nn.tensor_inventory import StoredTensor, activation
from proact.ops.number_formats import NumberFormat

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Elements = NDArray[np.uint64]
Bits = str | int | Iterable[str | int] | None

_CHUNK = 1 << 20  # elements that are rounded at once, so that float64 copies stay small


class Word(ABC):
    """The stored form of one tensor's elements: a word of ``bits`` bits each.

    A subclass says what a word means by `words` and `values`; whatever faults do to such tensors
    follows from these two.
    """

    name: str
    bits: int
    #: Names of bit fields and their masks, bit 0 the lowest.
    fields: Mapping[str, int]
    #: How native code reads memory, for the encodings that it knows. With `is_native` and None
    #: memory holds the stored words themselves.
    form: NumberFormat | None = None
    is_native: bool = False

    @abstractmethod
    def words(self, values: Floats, elements: Elements) -> Words:
        """The stored words of ``values`` (n,), which stand at ``elements`` (n,), row-major."""

    @abstractmethod
    def values(self, words: Words, elements: Elements) -> Floats:
        """The values that stored words (n,) at ``elements`` (n,) stand for."""

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        """The stored words of memory words, which hold numbers of type ``dtype``."""
        return self.words(as_floats(memory, dtype), elements)

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        """The memory words that stored words read as."""
        return as_memory(self.values(words, elements), dtype)

    def rounded(self, tensor: Tensor) -> Tensor:
        """The values after storing and reading back; ``tensor`` itself where nothing changes."""
        flat, result = tensor.detach().reshape(-1), torch.empty(tensor.numel(), dtype=tensor.dtype)
        for begin in range(0, flat.numel(), _CHUNK):
            part = flat[begin : begin + _CHUNK].double().cpu().numpy()
            elements = np.arange(begin, begin + len(part), dtype=np.uint64)
            values = self.values(self.words(part, elements), elements)
            result[begin : begin + len(part)] = torch.from_numpy(values).to(tensor.dtype)
        return result.to(tensor.device).view(tensor.shape)

    def saturates(self, tensor: Tensor) -> Tensor:
        """Which elements are out of range: bool, of the tensor's shape."""
        return torch.zeros_like(tensor, dtype=torch.bool)

    @property
    def all_bits(self) -> int:
        return (1 << self.bits) - 1

    def mask(self, bits: Bits) -> int:
        """The exposed bits as a mask.

        Args:
            bits: a field's name, a mask, a sequence of bit numbers and names, or None for all.

        Raises:
            ValueError: what this word lacks, or no bit at all. TypeError: something else.
        """
        if bits is None:
            return self.all_bits
        if isinstance(bits, str):
            if bits not in self.fields:
                raise ValueError(
                    f"{self.name} has the bit fields {', '.join(self.fields)}; got {bits!r}"
                )
            return self.fields[bits]
        if not isinstance(bits, Iterable):
            if not 0 < bits <= self.all_bits:
                raise ValueError(
                    f"a bit mask for {self.name} lies in [1, {self.all_bits:#x}], got {bits:#x}"
                )
            return operator.index(bits)
        mask = 0
        for part in bits:
            if not isinstance(part, str) and not 0 <= part < self.bits:
                raise ValueError(
                    f"{self.name} has the bits 0 to {self.bits - 1}, 0 the lowest; got {part}"
                )
            mask |= self.mask(part) if isinstance(part, str) else 1 << operator.index(part)
        if not mask:
            raise ValueError("bits names no bit, got an empty sequence")
        return mask


class MemoryWord(Word):
    """Memory holds the stored words themselves."""

    is_native = True

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        return memory.astype(np.uint64)

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        return words

    def rounded(self, tensor: Tensor) -> Tensor:
        return tensor


class Encoding(ABC):
    """How a network's numbers are stored.

    Attributes:
        name: part of a campaign's identity.
    """

    name: str

    @abstractmethod
    def word(self, stored: StoredTensor) -> Word:
        """How this tensor is stored; TypeError or ValueError where it cannot be."""

    def activation_word(self, name: str, tensor: Tensor, largest: float | None) -> Word:
        """How an activation is stored: the output (or input) ``name`` of a layer.

        ``largest`` is the magnitude that was observed there, or None where nobody looked.
        """
        return self.word(activation(name, tensor))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and (type(self), self.name) == (type(other), other.name)

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __repr__(self) -> str:
        return f"<encoding {self.name}>"


class UniformEncoding(Encoding, Word):
    """An encoding that stores every floating-point number alike: subclass this for your own.

    Give ``name``, ``bits`` (1 to 64), ``fields``, `words` and `values`. Faults then cost time in
    proportion to their number, in numpy; proact/faults/README.md has an example.
    """

    #: The dtypes of memory whose numbers it can stand for.
    takes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    #: Whether there is a word for NaN.
    has_nan: ClassVar[bool] = True

    def word(self, stored: StoredTensor) -> Word:
        check_dtype(self.name, self.takes, stored)
        if not self.has_nan and stored.kind != "activation" and torch.isnan(stored.tensor).any():
            raise ValueError(
                f"{stored.name} holds NaN, which the encoding {self.name} cannot store"
            )
        return self


def check_dtype(encoding: str, takes: Sequence[torch.dtype], stored: StoredTensor) -> None:
    """TypeError where an encoding does not take the tensor's dtype."""
    if stored.tensor.dtype not in takes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in takes)
        integers = ": narrow the fault by where=, or take the encoding native, which has integers"
        raise TypeError(
            f"the encoding {encoding} takes {names}, and {stored.name} is {stored.tensor.dtype}"
            + ("" if stored.tensor.is_floating_point() else integers)
        )


def as_floats(memory: Words, dtype: torch.dtype) -> Floats:
    """The numbers of type ``dtype`` that memory words hold."""
    return torch.from_numpy(signed_memory(memory, dtype.itemsize)).view(dtype).double().numpy()


def as_memory(values: Floats, dtype: torch.dtype) -> Words:
    """The memory words of numbers of type ``dtype``; the inverse of `as_floats`."""
    return unsigned_memory(_narrowed(values, dtype).numpy())


def signed_memory(memory: Words, width: int) -> NDArray[np.signedinteger]:
    """Memory words of ``width`` bytes as the signed integers that torch has."""
    signed: NDArray[np.signedinteger] = memory.astype(f"u{width}").view(f"i{width}")
    return signed


def unsigned_memory(signed: NDArray[np.signedinteger]) -> Words:
    """The inverse of `signed_memory`."""
    memory: Words = signed.view(f"u{signed.itemsize}").astype(np.uint64)
    return memory


def integers_of(tensor: Tensor) -> Tensor:
    """A tensor's memory as signed integers, in its shape; no copy."""
    return tensor.view(_SIGNED[tensor.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype hold the same bits, NaN and -0.0 included."""
    raw_a, raw_b = (tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in (a, b))
    return torch.equal(raw_a, raw_b)


def saturated_words(integers: Floats, bits: int) -> Words:
    """The nearest words of ``bits`` bits in two's complement, ties to even; NaN becomes 0."""
    limit = 2.0 ** (bits - 1)
    nearest = np.clip(np.rint(np.where(np.isnan(integers), 0.0, integers)), -limit, limit - 1)
    words: Words = nearest.astype(np.int64).astype(np.uint64) & np.uint64((1 << bits) - 1)
    return words


def signed_values(words: Words, bits: int) -> Floats:
    """The integers that words in two's complement stand for."""
    sign = np.int64(1 << (bits - 1))
    integers: Floats = ((words.astype(np.int64) ^ sign) - sign).astype(np.float64)
    return integers


def _narrowed(values: Floats, dtype: torch.dtype) -> Tensor:
    """Rounded once, ties to even, as integers; torch rounds to the halves by way of float32."""
    if dtype == torch.float16:
        with np.errstate(over="ignore"):
            return torch.from_numpy(values.astype(np.float16).view(np.int16))
    if dtype == torch.bfloat16:
        return torch.from_numpy(_rounded_to_odd(values)).to(dtype).view(torch.int16)
    return integers_of(torch.from_numpy(values).to(dtype))


def _rounded_to_odd(values: Floats) -> NDArray[np.float32]:
    """Floats whose last bit says whether digits were lost, so that rounding again is rounding
    once. S. Boldo and G. Melquiond, "When double rounding is odd", IMACS 2005."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    away = np.abs(near) > np.abs(values)
    toward_zero = np.where(away, np.nextafter(near, np.float32(0.0)), near).astype(np.float32)
    words = toward_zero.view(np.uint32)
    return np.asarray(words | (toward_zero != values) & ~np.isnan(values), np.uint32).view("f4")


_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
