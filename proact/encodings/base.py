"""Base classes of encodings: conversion of numbers to stored words and back."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.nn.tensor_inventory import StoredTensor, activation
from proact.ops.number_formats import NumberFormat
from proact.text import short_repr

if TYPE_CHECKING:
    from proact.encodings.scaled_words import StoredScale

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Elements = NDArray[np.uint64]
Bits = str | int | Iterable[str | int] | None

_CHUNK = 1 << 20  # elements rounded at a time, which keeps the float64 copies small


class Word(ABC):
    """The stored form of a tensor's elements: each is a word of ``bits`` bits.

    A subclass defines the meaning of a word by `words` and `values`. Faults need nothing else.
    """

    name: str
    bits: int
    #: Masks of the bit fields by name; bit 0 is the lowest.
    fields: Mapping[str, int]
    #: The stored form for native code. None together with `is_native` means that memory holds the
    #: stored words themselves.
    form: NumberFormat | None = None
    #: Whether native code can flip bits of these words.
    is_native: bool = False

    @abstractmethod
    def words(self, values: Floats, elements: Elements) -> Words:
        """Stores values as words.

        Args:
            values: float64 (n,).
            elements: row-major indices of the values in the tensor, uint64 (n,).

        Returns:
            The stored words, uint64 (n,).
        """

    @abstractmethod
    def values(self, words: Words, elements: Elements) -> Floats:
        """Reads stored words; the inverse of `words`.

        Args:
            words: stored words, uint64 (n,).
            elements: their row-major indices in the tensor, uint64 (n,).

        Returns:
            The values, float64 (n,).
        """

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        """The stored words of the numbers of type ``dtype`` in memory words; all uint64 (n,)."""
        return self.words(as_floats(memory, dtype), elements)

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        """The memory words of type ``dtype`` of the values of stored words; all uint64 (n,)."""
        return as_memory(self.values(words, elements), dtype)

    def rounded(self, tensor: Tensor) -> Tensor:
        """The values after storing and reading back; ``tensor`` itself if none of them changes."""
        flat, result = tensor.detach().reshape(-1), torch.empty(tensor.numel(), dtype=tensor.dtype)
        for begin in range(0, flat.numel(), _CHUNK):
            part = flat[begin : begin + _CHUNK].double().cpu().numpy()
            elements = np.arange(begin, begin + len(part), dtype=np.uint64)
            values = self.values(self.words(part, elements), elements)
            result[begin : begin + len(part)] = torch.from_numpy(values).to(tensor.dtype)
        return result.to(tensor.device).view(tensor.shape)

    @property
    def uncoded(self) -> Word:
        """The word without the code that protects it; the word itself if there is none."""
        return self

    def saturates(self, tensor: Tensor) -> Tensor:
        """Marks the elements that are out of range: bool, with the shape of ``tensor``."""
        return torch.zeros_like(tensor, dtype=torch.bool)

    def stored_bits(self, elements: int) -> int:
        """The number of stored bits of a tensor with ``elements`` elements."""
        return self.bits * elements

    @property
    def all_bits(self) -> int:
        """The mask of all bits of a word."""
        return (1 << self.bits) - 1

    def mask(self, bits: Bits) -> int:
        """The exposed bits as a mask.

        Args:
            bits: a field's name, a mask, a sequence of bit numbers and names, or None for all.

        Raises:
            ValueError: a field or bit that this word lacks, or no bit at all.
            TypeError: an argument of another type.
        """
        if bits is None:
            return self.all_bits
        if isinstance(bits, str):
            if bits not in self.fields:
                raise ValueError(
                    f"the bit fields of {self.name} are {', '.join(self.fields)}, got "
                    f"{short_repr(bits)}"
                )
            return self.fields[bits]
        if not isinstance(bits, Iterable):
            if not 0 < bits <= self.all_bits:
                raise ValueError(
                    f"a bit mask for {self.name} must lie in [1, {self.all_bits:#x}], got {bits:#x}"
                )
            return operator.index(bits)
        mask = 0
        for part in bits:
            if not isinstance(part, str) and not 0 <= part < self.bits:
                raise ValueError(f"the bits of {self.name} are 0 to {self.bits - 1}, got {part}")
            mask |= self.mask(part) if isinstance(part, str) else 1 << operator.index(part)
        if not mask:
            raise ValueError("bits must name at least one bit, got an empty sequence")
        return mask


class MemoryWord(Word):
    """A word that memory holds as it is stored."""

    is_native = True

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        return memory.astype(np.uint64)

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        return words

    def rounded(self, tensor: Tensor) -> Tensor:
        return tensor


class Encoding(ABC):
    """The stored form of a model's parameters.

    Two encodings of one class and name are equal.

    Attributes:
        name: identifies the encoding, also in the identity of a campaign.
        is_coded: whether a code protects stored words, so that some flips have no effect.
        revision: raised when an encoding of this name stores other bits than before, so that a
            store does not mix their rows.
    """

    name: str
    is_coded: bool = False
    revision: int = 1

    @abstractmethod
    def word(self, stored: StoredTensor) -> Word:
        """The stored form of a tensor; TypeError or ValueError if it cannot be stored."""

    def scale_word(self, scale: StoredScale) -> Word | None:
        """The stored form of scales of a tensor; None if they are not in the fault space.

        Raises:
            ValueError, TypeError: scales that cannot be stored.
        """
        return scale.part.word

    def activation_word(self, name: str, tensor: Tensor, largest: float | None) -> Word:
        """The stored form of an activation.

        Args:
            name: names the output (or input) of a layer.
            tensor: the activation, of any shape.
            largest: the largest observed magnitude of this activation; None if it is unknown.
        """
        return self.word(activation(name, tensor))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and (type(self), self.name) == (type(other), other.name)

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __repr__(self) -> str:
        return f"<encoding {self.name}>"


class UniformEncoding(Encoding, Word):
    """An encoding with one stored form for all floating-point numbers; the base class for your own.

    Define ``name``, ``bits`` (1 to 64), ``fields``, `words` and `values`. Faults are then made by
    numpy, in time proportional to their number. docs/howto/add_an_encoding.md has an example.

    Attributes:
        takes: the dtypes of tensors that can be stored; float32 and float64 by default.
        has_nan: whether a word for NaN exists; True by default. If not, parameters with NaN are
            refused.
    """

    takes: Sequence[torch.dtype] = (torch.float32, torch.float64)
    has_nan: bool = True

    def word(self, stored: StoredTensor) -> Word:
        check_dtype(self.name, self.takes, stored)
        if not self.has_nan and stored.kind != "activation" and torch.isnan(stored.tensor).any():
            raise ValueError(
                f"{stored.name} holds NaN, which the encoding {self.name} cannot store"
            )
        return self


def check_dtype(encoding: str, takes: Sequence[torch.dtype], stored: StoredTensor) -> None:
    """TypeError if an encoding cannot store the tensor's dtype."""
    if stored.tensor.dtype not in takes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in takes)
        raise TypeError(
            f"the encoding {encoding} takes {names}, and {stored.name} is {stored.tensor.dtype}"
            f"{_advice_for(stored.tensor)}"
        )


def _advice_for(tensor: Tensor) -> str:
    """What to do with a tensor that a format of floats does not take."""
    if tensor.is_complex():
        return (
            ": exclude the tensor with where=, or let the model store torch.view_as_real of it, "
            "because no encoding takes complex numbers"
        )
    if tensor.is_floating_point():
        return ": use the encoding native, or convert the model, for example by model.float()"
    return ": exclude the tensor with where=, or use the encoding native for integers"


def as_floats(memory: Words, dtype: torch.dtype) -> Floats:
    """The numbers of type ``dtype`` that memory words hold."""
    return torch.from_numpy(signed_memory(memory, dtype.itemsize)).view(dtype).double().numpy()


def as_memory(values: Floats, dtype: torch.dtype) -> Words:
    """The memory words of numbers of type ``dtype``; the inverse of `as_floats`."""
    return unsigned_memory(_narrowed(values, dtype).numpy())


def signed_memory(memory: Words, width: int) -> NDArray[np.signedinteger]:
    """Memory words of ``width`` bytes as the signed integers that torch supports."""
    signed: NDArray[np.signedinteger] = memory.astype(f"u{width}").view(f"i{width}")
    return signed


def unsigned_memory(signed: NDArray[np.signedinteger]) -> Words:
    """The inverse of `signed_memory`."""
    memory: Words = signed.view(f"u{signed.itemsize}").astype(np.uint64)
    return memory


def integers_of(tensor: Tensor) -> Tensor:
    """A view of the tensor's memory as signed integers, with the tensor's shape."""
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
    """The integers that words in two's complement mean."""
    sign = np.int64(1 << (bits - 1))
    integers: Floats = ((words.astype(np.int64) ^ sign) - sign).astype(np.float64)
    return integers


def _narrowed(values: Floats, dtype: torch.dtype) -> Tensor:
    """Values rounded once to ``dtype``, ties to even, as integers.

    torch would round float64 to a half in two steps, through float32.
    """
    if dtype == torch.float16:
        with np.errstate(over="ignore"):
            return torch.from_numpy(values.astype(np.float16).view(np.int16))
    if dtype == torch.bfloat16:
        return torch.from_numpy(_rounded_to_odd(values)).to(dtype).view(torch.int16)
    return integers_of(torch.from_numpy(values).to(dtype))


def _rounded_to_odd(values: Floats) -> NDArray[np.float32]:
    """Rounds to float32 with rounding to odd, so that a second rounding gives the correct result.

    S. Boldo and G. Melquiond, "When double rounding is odd", IMACS 2005.
    """
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    away = np.abs(near) > np.abs(values)
    toward_zero = np.where(away, np.nextafter(near, np.float32(0.0)), near).astype(np.float32)
    words = toward_zero.view(np.uint32)
    return np.asarray(words | (toward_zero != values) & ~np.isnan(values), np.uint32).view("f4")


_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
