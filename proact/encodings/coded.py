"""Coded encodings: a number format whose stored words carry check bits, such as float32+bch2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from proact.encodings.base import Encoding, MemoryWord, Word
from proact.encodings.block_formats import BlockFormat
from proact.encodings.coded_word import CodedWord, IntegerPayload
from proact.encodings.codes import (
    CODE_NAMES,
    IN_PLACE_CODE_NAMES,
    Code,
    FittedCode,
    code_named,
)
from proact.encodings.codes.registry import is_built_in, words_code
from proact.encodings.fixed_point import FixedPoint
from proact.encodings.floats import FloatLayout, FloatWord
from proact.encodings.formats import format_named, unknown_encoding
from proact.encodings.integers import ScaledInteger
from proact.encodings.scaled_words import ScaledWord, StoredScale
from proact.errors import unknown
from proact.nn.replacements import finite_range, replacement_for, widened
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.plain_memory import lack_of_memory
from proact.text import short_repr

#: Ends the name of an encoding whose decoder checks the range of numbers.
RANGE = "+range"


class Coded(Encoding):
    """A number format with a code, such as ``float32+bch2``.

    The decoder corrects the errors that the code can correct. A number whose error is only detected
    is replaced by the value nearest to 0 in the range of the tensor's clean values: 0, unless all
    of them have one sign. A bound or a threshold is replaced by the loosest one of its tensor, a
    running variance by the largest, other numbers of a normalisation by their median. These values,
    like the scales of integers, are assumed to be protected.

    Args:
        numbers: the format of the numbers, by name or as an encoding without a code.
        code: the name of a code (see `encoding_named`), or a `Code` of your own for the words of
            the format.
        checks_range: whether decoded numbers outside the range of the tensor's clean numbers count
            as detected too. The name of the encoding then ends in ``+range``.

    Raises:
        ValueError: an unknown name, an encoding that has a code already, or a `Code` with the name
            of a built-in one.
        TypeError: an argument of another type.
    """

    is_coded = True

    def __init__(
        self, numbers: str | Encoding, code: str | Code, checks_range: bool = False
    ) -> None:
        if not isinstance(numbers, (str, Encoding)):
            raise TypeError(f"numbers: expected a format or its name, got {short_repr(numbers)}")
        if not isinstance(code, (str, Code)):
            raise TypeError(f"code: expected a Code or its name, got {short_repr(code)}")
        found = numbers if isinstance(numbers, Encoding) else format_named(numbers)
        if found is None:
            raise unknown_encoding(numbers)
        if found.is_coded:
            raise ValueError(
                f"numbers: expected an encoding without a code, got {short_repr(found.name)}"
            )
        self.format, self.code = found, code
        self.revision = found.revision
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
            if tensor.is_floating_point() and not torch.isfinite(widened(tensor)).all():
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
        takes_ones = isinstance(inner, MemoryWord) and step > 1
        if takes_ones and has_only_small_integers(tensor, step):
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
        largest = np.array([widened(stored.tensor.detach()).abs().amax().double().item()])
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
        if not any(IntegerPayload(inner.bits, each).saturates(words).any() for each in payloads):
            return unused
    return 0
