"""Stored words that carry the check bits of a code."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import (
    Elements,
    Floats,
    Word,
    Words,
    integers_of,
    signed_values,
    unsigned_memory,
)
from proact.encodings.codes import Code, FittedCode
from proact.encodings.fixed_point import FixedPoint
from proact.encodings.scaled_words import ScaledWord
from proact.ops.in_place_code import encode_words_

_CHUNK = 1 << 18  # codewords encoded at a time, which keeps the copies small


class CodedWord(Word):
    """Words of a format with the check bits of a code.

    Bit numbers below ``format.bits`` are bits of the word itself. Those above are the bits of the
    check word, which a codeword has once; they belong to the first element of the codeword.

    A code in place takes bits of the word. In floats, in integers that memory holds as they are
    stored, and in formats of your own, they are the lowest bits, and a reader takes them as part of
    the number: the stored word is a usable number. In fixed point and scaled integers, check bits
    read as 0 (or as copies of the sign), and they take integer bits that no value of the tensor
    needs before they take the lowest bits.

    The bit field ``check`` has the places that hold check bits in at least one word of a codeword.
    In codewords of several words, some words have payload bits there.

    Attributes:
        format: the word without the code.
        fitted: the code of the words.
        elements: the number of elements of the tensor.
        replacement: the number in place of one whose error is detected and not corrected.
        limits: the smallest and largest clean number, if decoded numbers outside are replaced too.
    """

    def __init__(
        self,
        inner: Word,
        fitted: FittedCode,
        elements: int,
        replacement: float,
        limits: tuple[float, float] | None = None,
    ) -> None:
        code = fitted.code
        self.format, self.fitted, self.elements = inner, fitted, elements
        self.replacement, self.limits = replacement, limits
        self.name = f"{inner.name}+{code.name}"
        self.bits = inner.bits + code.check_bits
        self.form, self.is_native = inner.form, inner.is_native
        #: Whether a reader takes check bits in place as part of the number.
        self.is_read_whole = not isinstance(inner, (FixedPoint, ScaledWord))
        self._payloads = (
            None
            if self.is_read_whole
            else [IntegerPayload(inner.bits, each) for each in code.payloads]
        )
        rest = fitted.rest
        whole = (1 << inner.bits) - 1
        #: Whether check bits take the places of bits of the words.
        self._takes_bits = not code.check_bits or any(each != whole for each in code.payloads)
        self._payload_of_rest = (
            None
            if self.is_read_whole or rest is None
            else IntegerPayload(inner.bits, *rest.payloads)
        )
        self.fields = MappingProxyType(_fields(inner, code))
        #: The first element after the full codewords of a code that cannot be shortened.
        self.singles = elements if rest is None else elements - elements % code.words

    @property
    def uncoded(self) -> Word:
        return self.format

    @property
    def check_words(self) -> int:
        """The number of check words of the tensor."""
        code = self.fitted.code
        return -(-self.elements // code.words) if code.check_bits else 0

    def has_bit(self, element: int, bit: int) -> bool:
        """Whether a bit belongs to an element; check words belong to the first of a codeword."""
        return bit < self.format.bits or element % self.fitted.code.words == 0

    def stored_bits(self, elements: int) -> int:
        return self.format.stored_bits(elements) + self.fitted.code.check_bits * self.check_words

    def words(self, values: Floats, elements: Elements) -> Words:
        return self.format.words(values, elements)

    def values(self, words: Words, elements: Elements) -> Floats:
        return self.format.values(words, elements)

    def words_in(self, memory: Words, dtype: torch.dtype, elements: Elements) -> Words:
        return self.format.words_in(memory, dtype, elements)

    def memory_of(self, words: Words, dtype: torch.dtype, elements: Elements) -> Words:
        return self.format.memory_of(words, dtype, elements)

    def saturates(self, tensor: Tensor) -> Tensor:
        saturated = self.format.saturates(tensor)
        if self._payloads is None or not self._takes_bits:
            return saturated
        flat, marks = tensor.detach().reshape(-1), torch.zeros(tensor.numel(), dtype=torch.bool)
        for begin, end in self._chunks():
            elements = np.arange(begin, end, dtype=np.uint64)
            words = self.format.words(flat[begin:end].double().cpu().numpy(), elements)
            marks[begin:end] = torch.from_numpy(
                self._by_codeword(words, begin, IntegerPayload.saturates)
            )
        return saturated | marks.to(tensor.device).view(tensor.shape)

    def rounded(self, tensor: Tensor) -> Tensor:
        if not self._takes_bits:
            return self.format.rounded(tensor)
        result = self.format.rounded(tensor).detach().contiguous().clone()
        if self.fitted.in_memory is not None and result.is_cpu:
            encode_words_(result, self.fitted.in_memory)
            return result
        memory, dtype = integers_of(result).reshape(-1), tensor.dtype
        on_cpu, values = memory.cpu(), tensor.detach().reshape(-1)
        for begin, end in self._chunks():
            elements = np.arange(begin, end, dtype=np.uint64)
            if self._payloads is None:
                words = self.words_in(unsigned_memory(on_cpu[begin:end].numpy()), dtype, elements)
            else:
                words = self._nearest(values[begin:end].double().cpu().numpy(), elements)
            stored = self.as_read(self.encoded(words, begin)[0], begin)
            changed = self.memory_of(stored, dtype, elements)
            raw = changed.astype(f"u{dtype.itemsize}").view(f"i{dtype.itemsize}")
            on_cpu[begin:end] = torch.from_numpy(raw)
        if on_cpu is not memory:
            memory.copy_(on_cpu)
        return result

    def encoded(self, words: Words, begin: int) -> tuple[Words, Words]:
        """The stored words of adjacent elements, and their check words.

        Args:
            words: words of the format, uint64 (n,); whole codewords, except at the tensor's end.
            begin: the element of the first word.
        """
        if self._payloads is not None:
            words = self._by_codeword(words, begin, IntegerPayload.nearest)
        full, size = self._split(words, begin), self.fitted.code.words
        stored, check = self.fitted.code.encode(_in_rows(words[:full], size))
        result = stored.reshape(-1)[:full]
        if full < len(words):
            assert self.fitted.rest is not None
            rest, _ = self.fitted.rest.encode(words[full:, None])
            result = np.concatenate([result, rest[:, 0]])
        return result, check

    def as_read(self, stored: Words, begin: int) -> Words:
        """The words of the format that a reader sees in stored words of adjacent elements."""
        if self._payloads is None:
            return stored
        return self._by_codeword(stored, begin, IntegerPayload.read)

    def reading_at(self, position: int | None) -> Callable[[Words], Words]:
        """How words are read at a position in a codeword; None stands for the single words."""
        if self._payloads is None:
            return lambda words: words
        payload = self._payload_of_rest if position is None else self._payloads[position]
        assert payload is not None
        return payload.read

    def _nearest(self, values: Floats, elements: Elements) -> Words:
        """The words nearest to values of those that the payload can hold.

        Each value is rounded once. Rounding to words of the format first would add its error.
        """
        assert self._payloads is not None
        position = elements % np.uint64(len(self._payloads))
        position[elements >= np.uint64(self.singles)] = len(self._payloads)
        result = np.empty(len(values), np.uint64)
        for number, payload in enumerate([*self._payloads, self._payload_of_rest]):
            rows = position == number
            if payload is not None and rows.any():
                steps = self.format.words(values[rows] / 2.0**payload.low, elements[rows])
                result[rows] = payload.with_steps(signed_values(steps, payload.bits))
        return result

    def _split(self, words: Words, begin: int) -> int:
        """The number of ``words`` that belong to codewords and are not coded one by one."""
        return min(max(self.singles - begin, 0), len(words))

    def _by_codeword(
        self, words: Words, begin: int, change: Callable[[IntegerPayload, Words], np.ndarray]
    ) -> np.ndarray:
        """Applies a method to the payload of each word; the result has one entry per word."""
        assert self._payloads is not None
        full, size = self._split(words, begin), len(self._payloads)
        rows = _in_rows(words[:full], size)
        columns = [change(payload, rows[:, i]) for i, payload in enumerate(self._payloads)]
        result = np.stack(columns, axis=1).reshape(-1)[:full]
        if full == len(words):
            return result
        assert self._payload_of_rest is not None
        return np.concatenate([result, change(self._payload_of_rest, words[full:])])

    def _chunks(self) -> list[tuple[int, int]]:
        step = _CHUNK * self.fitted.code.words
        return [
            (begin, min(begin + step, self.elements)) for begin in range(0, self.elements, step)
        ]


class IntegerPayload:
    """The payload bits of an integer word: how they are written and read.

    From the top, a word holds the sign, ``unused`` bits that repeat the sign when read, the other
    bits of the payload, and ``low`` bits that read as 0. Check bits take the places of both.
    """

    def __init__(self, bits: int, payload: int) -> None:
        self.bits, self.payload = bits, payload
        magnitude = payload & ~(1 << (bits - 1))
        self.unused = bits - 1 - magnitude.bit_length()
        self.low = (payload & -payload).bit_length() - 1

    def nearest(self, words: Words) -> Words:
        """The nearest words that the payload can hold, ties to even."""
        return self.with_steps(self._steps(words))

    def with_steps(self, steps: Floats) -> Words:
        """The words of numbers of steps of the payload, which saturate."""
        return self._words(np.clip(steps, -self._limit, self._limit - 1))

    def saturates(self, words: Words) -> np.ndarray:
        """Whether each word is outside the range of the payload."""
        steps = self._steps(words)
        return (steps < -self._limit) | (steps > self._limit - 1)

    def read(self, words: Words) -> Words:
        payload = words & np.uint64(self.payload)
        copies = ((1 << self.unused) - 1) << (self.bits - 1 - self.unused)
        is_negative = words >> np.uint64(self.bits - 1) & np.uint64(1)
        read: Words = payload | is_negative * np.uint64(copies)
        return read

    @property
    def _limit(self) -> float:
        return 2.0 ** (self.bits - 1 - self.unused - self.low)

    def _steps(self, words: Words) -> Floats:
        steps: Floats = np.rint(signed_values(words, self.bits) / 2.0**self.low)
        return steps

    def _words(self, steps: Floats) -> Words:
        integers: Words = (steps * 2.0**self.low).astype(np.int64).astype(np.uint64)
        integers &= np.uint64((1 << self.bits) - 1)
        return integers


def _fields(inner: Word, code: Code) -> dict[str, int]:
    """The bit fields of the format without check bits, and the field of the check bits."""
    own = ((1 << code.check_bits) - 1) << inner.bits
    taken = 0
    for payload in code.payloads:
        taken |= inner.all_bits & ~payload
    fields = {name: mask & ~taken for name, mask in inner.fields.items() if mask & ~taken}
    return {**fields, "check": own | taken} if own | taken else fields


def _in_rows(words: Words, size: int) -> Words:
    """Words as rows of ``size``, (n, size); the last row is filled up with 0."""
    missing = -len(words) % size
    if missing:
        words = np.concatenate([words, np.zeros(missing, np.uint64)])
    return words.reshape(-1, size)
