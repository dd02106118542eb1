"""Binary linear codes, defined by their parity checks and decoded by a table of syndromes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proact.encodings.codes.base import Code, Decoded, Words

_BYTES = 8  # of the packed words of a codeword


class LinearCode(Code):
    """A systematic binary code whose words together have at most 64 bits.

    The words of a codeword are packed into one integer: place p is bit ``p % word_bits`` of word
    ``p // word_bits``. The syndrome of a codeword is the XOR of the columns of its places that hold
    1, and 0 if the codeword has no error. The check bit number j has the column ``1 << j``, so that
    the check bits are the syndrome of the payload.

    Args:
        name, word_bits, words: as for `Code`.
        columns: for each place the column of the parity-check matrix, as an integer.
        check_places: the places of the check bits, in the order of the bits of the syndrome; empty
            for a code with check bits of its own.
        check_bits: the number of check bits of its own.
        corrections: the places to flip for each syndrome that is corrected. A syndrome that is
            neither here nor in ``clears`` is detected.
        clears: the places to set to 0 for each syndrome, for codes that mask what they detect.
        corrects: as for `Code`.

    Attributes:
        payload: the places that do not hold check bits, as a mask.
        syndrome_tables: the syndrome of each value of each byte, uint32 (8, 256).
        spread_tables: the places of the check bits for each value of each byte of a syndrome,
            uint64 (8, 256); zero for a code with check bits of its own.
        flips: the places to flip for each syndrome, uint64 (2^check bits,).
        keeps: the places that keep their value for each syndrome, uint64 (2^check bits,).
        is_detected: whether each syndrome is detected, bool (2^check bits,).
    """

    def __init__(
        self,
        name: str,
        word_bits: int,
        words: int,
        columns: Sequence[int],
        *,
        check_places: Sequence[int] = (),
        check_bits: int = 0,
        corrections: Mapping[int, Iterable[int]],
        clears: Mapping[int, Iterable[int]] | None = None,
        corrects: int = 0,
    ) -> None:
        self.name, self.word_bits, self.words = name, word_bits, words
        self.check_bits, self.corrects = check_bits, corrects
        self.columns, self.check_places = tuple(columns), tuple(check_places)
        self.masks_detected = clears is not None
        every = (1 << word_bits * words) - 1
        self.payload = every & ~_mask(check_places)
        self.syndrome_tables = _byte_tables(columns, np.uint32)
        self.spread_tables = _byte_tables([1 << place for place in check_places], np.uint64)
        syndromes = 1 << (len(check_places) + check_bits)
        self.flips = np.zeros(syndromes, np.uint64)
        self.keeps = np.full(syndromes, every, np.uint64)
        self.is_detected = np.ones(syndromes, bool)
        for syndrome, places in corrections.items():
            self.flips[syndrome] = _mask(places)
            self.is_detected[syndrome] = False
        for syndrome, places in (clears or {}).items():
            self.keeps[syndrome] = every & ~_mask(places)
        self._shifts = np.arange(words, dtype=np.uint64) * np.uint64(word_bits)

    @property
    def length(self) -> int:
        """The number of stored bits of a codeword."""
        return self.word_bits * self.words + self.check_bits

    @property
    def payloads(self) -> tuple[int, ...]:
        """The mask of the payload bits of each word."""
        word = (1 << self.word_bits) - 1
        return tuple(self.payload >> self.word_bits * i & word for i in range(self.words))

    def packed(self, words: Words) -> Words:
        """The words of each codeword as one integer, uint64 (n,)."""
        packed: Words = np.bitwise_or.reduce(words << self._shifts, axis=1)
        return packed

    def unpacked(self, packed: Words) -> Words:
        """The inverse of `packed`: uint64 (n, words)."""
        word = np.uint64((1 << self.word_bits) - 1)
        unpacked: Words = packed[:, None] >> self._shifts & word
        return unpacked

    def syndromes(self, packed: Words, check: Words | None = None) -> NDArray[np.uint32]:
        """The syndrome of each codeword, uint32 (n,)."""
        result: NDArray[np.uint32] = _looked_up(self.syndrome_tables, packed)
        if check is not None:
            result ^= check.astype(np.uint32)
        return result

    def encode(self, words: Words) -> tuple[Words, Words]:
        payload = self.packed(words) & np.uint64(self.payload)
        check = self.syndromes(payload).astype(np.uint64)
        if self.check_bits:
            return words, check
        return self.unpacked(payload | _looked_up(self.spread_tables, check)), np.zeros_like(check)

    def decode(self, words: Words, check: Words) -> Decoded:
        packed = self.packed(words)
        found = self.syndromes(packed, check if self.check_bits else None)
        corrected = (packed ^ self.flips[found]) & self.keeps[found]
        return Decoded(self.unpacked(corrected), self.is_detected[found])


def error_patterns(columns: Sequence[int], most: int) -> dict[int, tuple[int, ...]]:
    """The syndrome of every error pattern of at most ``most`` places, with these places.

    Raises:
        ValueError: two patterns have one syndrome, so that the code does not correct them.
    """
    patterns: dict[int, tuple[int, ...]] = {}
    for weight in range(most + 1):
        for places in combinations(range(len(columns)), weight):
            syndrome = 0
            for place in places:
                syndrome ^= columns[place]
            if syndrome in patterns:
                raise ValueError(
                    f"the errors {patterns[syndrome]} and {places} have the same syndrome"
                )
            patterns[syndrome] = places
    return patterns


def _mask(places: Iterable[int]) -> int:
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask


def _byte_tables(columns: Sequence[int], dtype: type) -> NDArray[Any]:
    """The XOR of the columns of the set bits, for each value of each byte: (8, 256)."""
    tables: NDArray[Any] = np.zeros((_BYTES, 256), dtype)
    values = np.arange(256)
    for place, column in enumerate(columns):
        byte, bit = divmod(place, 8)
        tables[byte, values >> bit & 1 == 1] ^= dtype(column)
    return tables


def _looked_up(tables: NDArray[Any], packed: Words) -> NDArray[Any]:
    """The XOR over the bytes of ``packed`` of their table entries."""
    used = int(np.flatnonzero(tables.any(axis=1)).max(initial=0)) + 1
    result: NDArray[Any] = tables[0][(packed & np.uint64(0xFF)).astype(np.intp)]
    for byte in range(1, used):
        result = (
            result ^ tables[byte][(packed >> np.uint64(8 * byte) & np.uint64(0xFF)).astype(np.intp)]
        )
    return result
