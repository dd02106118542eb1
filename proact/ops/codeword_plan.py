"""Bit flips that a code does not correct, drawn without a look at the memory of the tensors.

A code that corrects t flips decodes a codeword with at most t flips to itself. Such codewords can
be dropped as soon as their flips are drawn; at low bit error rates few others are left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from proact import _native
from proact.limits import STREAMS
from proact.ops._codeword_reference import CodedWords, ReferenceCodewordPlan
from proact.ops.plan import FlipPlaces, checked_draw, checked_integer, checked_threads

#: The largest number of words in a codeword.
MOST_WORDS = 64
#: The largest width of a word; the bits of the check word follow, and bit numbers have 8 bits.
MOST_WORD_BITS = 191


class CodewordFlips(NamedTuple):
    """The flips of one trial.

    Attributes:
        places: the flips of the codewords that have more flips than their code corrects, ordered
            by tensor, codeword, element and bit.
        flips: the number of all flips.
        dropped: the number of codewords that have flips, but at most as many as their code
            corrects. ``places`` does not list their flips.
    """

    places: FlipPlaces
    flips: int
    dropped: int


class CodewordPlan:
    """Coded tensors whose flips are drawn together."""

    def __init__(self) -> None:
        self._reference = ReferenceCodewordPlan()
        self._native: Any = None
        if _native.module is not None:
            self._native = _native.module.CodewordPlan()
        self._exposed_bits = 0

    def add(
        self,
        elements: int,
        stream: int,
        mask: int,
        *,
        word_bits: int,
        words: int = 1,
        corrects: int = 0,
        check_stream: int = 0,
        check_mask: int = 0,
        singles: int | None = None,
    ) -> None:
        """Adds a tensor.

        Codeword c consists of the elements ``c * words`` to ``c * words + words - 1`` and a check
        word; the last codeword may have fewer elements.

        Args:
            elements: the number of words of the tensor, at most 2^32.
            stream: names the tensor in the sampler; in [0, 2^48).
            mask: the exposed bits of a word, bit 0 being the lowest; 0 if none are exposed.
            word_bits: the width of a word, in [1, 191].
            words: the number of words in a codeword, a power of two, at most 64.
            corrects: codewords with at most this many flips are dropped; with 0, no flip is.
            check_stream: names the check words in the sampler; in [0, 2^48).
            check_mask: the exposed bits of a check word, at most 64 bits; 0 if none are exposed.
                Bit j of the check word of codeword c counts as bit ``word_bits + j`` of element
                ``c * words``.
            singles: a multiple of ``words``; flips in this element and all after it are never
                dropped. None stands for ``elements``.

        Raises:
            TypeError: an argument that is not an integer.
            ValueError: an argument outside the ranges above.
        """
        elements = checked_integer("elements", elements, (1 << 32) + 1)
        coded = CodedWords(
            elements,
            checked_integer("stream", stream, STREAMS),
            checked_integer("mask", mask, 1 << 64),
            checked_integer("word_bits", word_bits, MOST_WORD_BITS + 1),
            checked_integer("words", words, MOST_WORDS + 1),
            checked_integer("corrects", corrects, 1 << 32),
            checked_integer("check_stream", check_stream, STREAMS),
            checked_integer("check_mask", check_mask, 1 << 64),
            elements if singles is None else checked_integer("singles", singles, (1 << 32) + 1),
        )
        _check(coded)
        self._reference.add(*coded)
        if self._native is not None:
            self._native.add(*coded)
        self._exposed_bits += coded.exposed_bits

    @property
    def exposed_bits(self) -> int:
        """The number of exposed bits in all words and check words."""
        return self._exposed_bits

    def draw(
        self, ber: float, seed: int, trial: int, threads: int | None = None, isa: str = ""
    ) -> CodewordFlips:
        """Draws the flips of all tensors and drops those that the codes correct.

        The flips of words and of check words are those of `FlipPlan` for tensors of the same size,
        stream and mask. Neither ``threads`` nor ``isa`` changes them; all arguments are as for
        `FlipPlan.flip`.
        """
        ber, seed, trial = checked_draw(ber, seed, trial)
        plan = self._native
        if plan is None or ber > plan.max_ber:
            plan = self._reference
        drawn = plan.draw(ber, seed, trial, checked_threads(threads), isa)
        tensor, element, bit, flips, dropped = drawn
        return CodewordFlips(FlipPlaces(tensor, element, bit), flips, dropped)


def _check(coded: CodedWords) -> None:
    if coded.word_bits == 0:
        raise ValueError("word_bits must be 1 or more, got 0")
    if coded.mask >> coded.word_bits:
        raise ValueError(
            f"mask must expose only bits of a word of {coded.word_bits} bits, got {coded.mask:#x}"
        )
    if coded.words.bit_count() != 1:
        raise ValueError(f"words must be a power of two, got {coded.words}")
    if coded.singles % coded.words and coded.singles < coded.elements:
        raise ValueError(
            f"singles must be a multiple of the {coded.words} words of a codeword, got "
            f"{coded.singles}"
        )
