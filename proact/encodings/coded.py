"""Coded encodings: a number format whose stored words carry check bits, such as float32+bch2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import (
    Elements,
    Encoding,
    Floats,
    MemoryWord,
    Word,
    Words,
    integers_of,
    signed_values,
    unsigned_memory,
)
from proact.encodings.block_formats import BlockFormat
from proact.encodings.codes import (
    CODE_NAMES,
    IN_PLACE_CODE_NAMES,
    Code,
    FittedCode,
    code_named,
)
from proact.encodings.codes.registry import (
    is_built_in,
    words_code,
)
from proact.encodings.fixed_point import FixedPoint
from proact.encodings.floats import FloatLayout, FloatWord
from proact.encodings.formats import format_named, unknown_encoding
from proact.encodings.integers import ScaledInteger
from proact.encodings.scaled_words import ScaledWord, StoredScale
from proact.errors import unknown
from proact.nn.replacements import finite_range, replacement_for
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.in_place_code import encode_words_
from proact.ops.plain_memory import lack_of_memory

#: Ends the name of an encoding whose decoder checks the range of numbers.
RANGE = "+range"
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
        self._readings = (
            None if self.is_read_whole else [_Reading(inner.bits, each) for each in code.payloads]
        )
        rest = fitted.rest
        whole = (1 << inner.bits) - 1
        #: Whether check bits take the places of bits of the words.
        self._takes_bits = not code.check_bits or any(each != whole for each in code.payloads)
        self._reading_of_rest = (
            None if self.is_read_whole or rest is None else _Reading(inner.bits, *rest.payloads)
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
        if self._readings is None or not self._takes_bits:
            return saturated
        flat, marks = tensor.detach().reshape(-1), torch.zeros(tensor.numel(), dtype=torch.bool)
        for begin, end in self._chunks():
            elements = np.arange(begin, end, dtype=np.uint64)
            words = self.format.words(flat[begin:end].double().cpu().numpy(), elements)
            marks[begin:end] = torch.from_numpy(self._by_codeword(words, begin, _Reading.saturates))
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
            if self._readings is None:
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
        if self._readings is not None:
            words = self._by_codeword(words, begin, _Reading.nearest)
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
        if self._readings is None:
            return stored
        return self._by_codeword(stored, begin, _Reading.read)

    def reading_at(self, position: int | None) -> Callable[[Words], Words]:
        """How words are read at a position in a codeword; None stands for the single words."""
        if self._readings is None:
            return lambda words: words
        reading = self._reading_of_rest if position is None else self._readings[position]
        assert reading is not None
        return reading.read

    def _nearest(self, values: Floats, elements: Elements) -> Words:
        """The words nearest to values of those that the payload can hold.

        Each value is rounded once. Rounding to words of the format first would add its error.
        """
        assert self._readings is not None
        position = elements % np.uint64(len(self._readings))
        position[elements >= np.uint64(self.singles)] = len(self._readings)
        result = np.empty(len(values), np.uint64)
        for number, reading in enumerate([*self._readings, self._reading_of_rest]):
            rows = position == number
            if reading is not None and rows.any():
                steps = self.format.words(values[rows] / 2.0**reading.low, elements[rows])
                result[rows] = reading.with_steps(signed_values(steps, reading.bits))
        return result

    def _split(self, words: Words, begin: int) -> int:
        """The number of ``words`` that belong to codewords and are not coded one by one."""
        return min(max(self.singles - begin, 0), len(words))

    def _by_codeword(
        self, words: Words, begin: int, change: Callable[[_Reading, Words], np.ndarray]
    ) -> np.ndarray:
        """Applies a method of the reading of each word; the result has one entry per word."""
        assert self._readings is not None
        full, size = self._split(words, begin), len(self._readings)
        rows = _in_rows(words[:full], size)
        columns = [change(reading, rows[:, i]) for i, reading in enumerate(self._readings)]
        result = np.stack(columns, axis=1).reshape(-1)[:full]
        if full == len(words):
            return result
        assert self._reading_of_rest is not None
        return np.concatenate([result, change(self._reading_of_rest, words[full:])])

    def _chunks(self) -> list[tuple[int, int]]:
        step = _CHUNK * self.fitted.code.words
        return [
            (begin, min(begin + step, self.elements)) for begin in range(0, self.elements, step)
        ]


class _Reading:
    """How the payload of an integer word is chosen and read.

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


class Coded(Encoding):
    """A number format with a code, such as ``float32+bch2``.

    The decoder corrects the errors that the code can correct. A number whose error is only detected
    is replaced by the value nearest to 0 in the range of the tensor's clean values: 0, unless all
    of them have one sign. A bound or a threshold is replaced by the loosest one of its tensor, a
    running variance by the largest, other numbers of a normalisation by their median. These values,
    like the scales of integers, are assumed to be protected.

    Args:
        numbers: the format of the numbers, by name or as an encoding without a code.
        code: the name of a code, or a `Code` of your own for the words of the format.
        checks_range: whether decoded numbers outside the range of the tensor's clean numbers count
            as detected too. The name of the encoding then ends in ``+range``.

    Raises:
        ValueError: an unknown name.
    """

    is_coded = True

    def __init__(
        self, numbers: str | Encoding, code: str | Code, checks_range: bool = False
    ) -> None:
        found = numbers if isinstance(numbers, Encoding) else format_named(numbers)
        if found is None:
            raise unknown_encoding(numbers)
        self.format, self.code = found, code
        if isinstance(code, str) and code not in CODE_NAMES:
            raise unknown("code", code, CODE_NAMES)
        if isinstance(code, Code) and code.name in CODE_NAMES and not is_built_in(code):
            raise ValueError(
                f"{code.name} is the name of a code of proact: give {type(code).__name__} another "
                "name, because the name identifies the encoding"
            )
        self.checks_range = checks_range
        self.name = f"{self.format.name}+{code if isinstance(code, str) else code.name}"
        if checks_range:
            self.name += RANGE

    def word(self, stored: StoredTensor) -> Word:
        if (lack := lack_of_memory(stored.tensor)) is not None:
            raise TypeError(
                f"the encoding {self.name} needs plain memory, and {stored.name} is {lack}"
            )
        inner = self.format.word(stored)
        tensor = stored.tensor
        if self.code == "mset" and not isinstance(inner, FloatWord):
            raise ValueError(
                f"the code mset fits float16, bfloat16, float32 and float64, and {stored.name} is "
                f"stored as {inner.name}: choose another code"
            )
        if self.code in IN_PLACE_CODE_NAMES and isinstance(self.format, BlockFormat):
            self._refuse_blocks(stored, inner)
        unused = _unused_bits(inner, tensor, self._fitted) if isinstance(inner, FixedPoint) else 0
        fitted = self._fitted(inner, unused)
        if isinstance(inner, ScaledWord) and isinstance(self.format, ScaledInteger):
            inner = self.format.word_up_to(_largest_payload(inner, fitted, tensor.numel()), stored)
        self._refuse_unfit(stored, inner, fitted)
        limits = finite_range(stored) if self.checks_range else None
        return CodedWord(inner, fitted, tensor.numel(), replacement_for(stored), limits)

    def _refuse_unfit(self, stored: StoredTensor, inner: Word, fitted: FittedCode) -> None:
        """ValueError if check bits would destroy numbers of a tensor."""
        tensor, payloads = stored.tensor, fitted.code.payloads
        takes_bits = any(payload != inner.all_bits for payload in payloads)
        advice = (
            f"encode it without a code, as in {{{stored.name!r}: 'native', '*': {self.name!r}}}"
        )
        if (isinstance(inner, FloatLayout) and takes_bits) or self.checks_range:
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{stored.name} holds NaN or infinity, and the encoding {self.name} needs "
                    f"finite values: {advice}"
                )
            if isinstance(inner, FloatLayout) and bool(inner.saturates(tensor).any()):
                raise ValueError(
                    f"{stored.name} has values out of the range of {inner.name}, and the encoding "
                    f"{self.name} needs values within it: {advice}"
                )
        left = tensor.numel() % len(payloads)
        last = fitted.rest.payloads if fitted.rest is not None and left else ()
        if isinstance(inner, FloatLayout) and takes_bits:
            self._refuse_lost_floats(stored, inner, (*payloads, *last), advice)
        step = max(payload & -payload for payload in (*payloads, *last))
        if isinstance(inner, MemoryWord) and has_only_small_integers(tensor, step):
            raise ValueError(
                f"{stored.name} holds integers below {2 * step}, of which the encoding {self.name} "
                f"keeps multiples of {step} in some words: {advice}"
            )
        if fitted.rest is None and left and any(p != inner.all_bits for p in payloads[left:]):
            raise ValueError(
                f"a codeword of {fitted.code.name} has {len(payloads)} words, and check bits of "
                f"the last one of {stored.name} would lie beyond its {tensor.numel()} elements: "
                f"{advice}"
            )

    def _refuse_blocks(self, stored: StoredTensor, inner: Word) -> None:
        """ValueError for a code in place in the elements of a block format."""
        if isinstance(inner, ScaledWord):
            raise ValueError(
                f"the code {self.code} takes bits of the words of {stored.name}, and elements of "
                f"{inner.name} have none to spare: choose secded32, secded64 or tmr, which have "
                "check bits of their own"
            )

    def _refuse_lost_floats(
        self, stored: StoredTensor, inner: FloatLayout, payloads: Sequence[int], advice: str
    ) -> None:
        """ValueError if check bits take exponent bits, or could make NaN of a value."""
        taken = 0
        for payload in payloads:
            taken |= inner.all_bits & ~payload
        if taken & inner.fields["exponent"]:
            if self.code == "mset" or isinstance(self.code, Code):
                return  # these choose exponent bits on purpose
            raise ValueError(
                f"the code {self.code} takes up to {taken.bit_count()} low bits of the words of "
                f"{stored.name}, and {inner.name} has {inner.mantissa_bits} mantissa bits: {advice}"
            )
        if not stored.tensor.numel():
            return
        largest = np.array([stored.tensor.detach().abs().amax().double().item()])
        nowhere = np.zeros(1, np.uint64)
        with_checks = inner.words(largest, nowhere) | np.uint64(taken)
        if not np.isfinite(inner.values(with_checks, nowhere)[0]):
            raise ValueError(
                f"{stored.name} holds {largest[0]:g}, whose word with check bits of "
                f"{self.name} can mean NaN in {inner.name}: {advice}"
            )

    def scale_word(self, scale: StoredScale) -> Word | None:
        """None: beside coded words, scales are assumed to be protected."""
        return None

    def word_beside(self, scale: StoredScale) -> CodedWord | None:
        """The words of scales with check bits of their own; None for a code in place."""
        inner = scale.part.word
        fitted = self._fitted(inner, 0)
        if any(payload != inner.all_bits for payload in fitted.code.payloads):
            return None
        values = torch.from_numpy(scale.part.values(np.arange(scale.tensor.numel())))
        described = replace(scale, tensor=values)
        limits = finite_range(described) if self.checks_range else None
        return CodedWord(inner, fitted, len(values), replacement_for(described), limits)

    def activation_word(self, name: str, tensor: Tensor, largest: float | None) -> Word:
        """The stored form of an activation, which no code protects."""
        return self.format.activation_word(name, tensor, largest)

    def _fitted(self, inner: Word, unused: int) -> FittedCode:
        if isinstance(self.code, Code):
            if self.code.word_bits != inner.bits:
                raise ValueError(
                    f"the code {self.code.name} fits words of {self.code.word_bits} bits, got "
                    f"{inner.name} with {inner.bits}"
                )
            return FittedCode(self.code)
        if isinstance(inner, MemoryWord) and self.code in IN_PLACE_CODE_NAMES:
            in_memory = words_code(self.code, inner.bits // 8)
            return code_named(self.code, inner.bits)._replace(in_memory=in_memory)

        def places(count: int) -> list[int]:
            high = min(unused, count)
            top = inner.bits - 1
            return [*range(count - high), *range(top - high, top)]

        return code_named(self.code, inner.bits, places)


def has_only_small_integers(tensor: Tensor, step: int) -> bool:
    """Whether a tensor holds integers such as masks, which multiples of ``step`` cannot represent.

    These are integers other than 0 of which all magnitudes are below twice the step.
    """
    if tensor.is_floating_point() or not tensor.numel():
        return False
    return 0 < int(tensor.to(torch.int64).abs().amax()) < 2 * step


def _largest_payload(inner: Word, fitted: FittedCode, elements: int) -> int:
    """The largest positive word that the payload of every word of a tensor can represent."""
    payloads = [*fitted.code.payloads]
    if fitted.rest is not None and elements % fitted.code.words:
        payloads += fitted.rest.payloads
    top = (1 << (inner.bits - 1)) - 1
    for payload in payloads:
        top &= payload
    return top


def _unused_bits(
    inner: FixedPoint, tensor: Tensor, fitted: Callable[[Word, int], FittedCode]
) -> int:
    """The number of integer bits that check bits may take: no value of the tensor needs them.

    Values are compared after rounding, so that a rounded tensor has the same number.
    """
    integer_bits = inner.fields.get("integer", 0).bit_count()
    extremes = torch.stack([tensor.amin(), tensor.amax()]).double().cpu().numpy()
    words = inner.words(extremes, np.zeros(2, np.uint64))
    for unused in range(integer_bits, 0, -1):
        code, rest, _ = fitted(inner, unused)
        payloads = [*code.payloads, *(rest.payloads if rest is not None else ())]
        if not any(_Reading(inner.bits, each).saturates(words).any() for each in payloads):
            return unused
    return 0


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
