"""Decoding of faulty codewords: which flips are left after the code has corrected what it can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from proact.encodings.coded_word import CodedWord
from proact.encodings.codes import Code
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.overwritten_words import rows_by_tensor
from proact.faults.target_memory import read_words
from proact.ops.plan import FlipPlaces

#: The outcomes of decoding a codeword with flips.
CORRECTED, DETECTED, MISCORRECTED = "corrected", "detected", "miscorrected"
OUTCOMES = (CORRECTED, DETECTED, MISCORRECTED)


class DecodedCodewords(NamedTuple):
    """Codewords with flips, as columns with one row for each codeword.

    Attributes:
        tensor: the number of the tensor.
        element: the first element of the codeword.
        outcome: the position in `OUTCOMES`.
    """

    tensor: NDArray[np.uint32]
    element: NDArray[np.uint64]
    outcome: NDArray[np.uint8]

    @classmethod
    def joined(cls, parts: Sequence[DecodedCodewords]) -> DecodedCodewords:
        empty = cls(np.empty(0, np.uint32), np.empty(0, np.uint64), np.empty(0, np.uint8))
        return cls(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


class Decoding(NamedTuple):
    """The result of decoding all codewords with flips.

    Attributes:
        residual: the bits of the format's words that differ from the clean ones after decoding.
        codewords: the decoded codewords; those that were dropped before decoding are not listed.
    """

    residual: FlipPlaces
    codewords: DecodedCodewords


def decode(exposed: Sequence[ExposedTensor], places: FlipPlaces) -> Decoding:
    """Decodes every codeword in which bits flip.

    The clean words are read from memory and encoded, the flips are made in the stored words, and
    these are decoded. So the codes may be of any kind, linear or not.

    Args:
        exposed: the tensors, by number; their memory holds clean values.
        places: distinct stored bits in any order.
    """
    residuals, codewords = [], []
    for index, rows in rows_by_tensor(places.tensor):
        element, bit = places.element[rows], places.bit[rows]
        word = exposed[index].word
        if not isinstance(word, CodedWord):
            residuals.append((index, element, bit))
            codewords.append(_uncoded(index, element))
            continue
        for part in _parts(word, element):
            if part.rows.any():
                changed, found = _decode_part(
                    exposed[index], word, part, element[part.rows], bit[part.rows], index
                )
                residuals.append((index, *changed))
                codewords.append(found)
    return Decoding(_places(residuals), DecodedCodewords.joined(codewords))


class _Part(NamedTuple):
    """Flips in the codewords of one code: the full codewords of a tensor, or its single words."""

    code: Code
    first: int  #: element at which the first codeword begins
    rows: NDArray[np.bool_]
    is_rest: bool


def _parts(word: CodedWord, element: NDArray[np.uint64]) -> list[_Part]:
    in_rest = element >= np.uint64(word.singles)
    parts = [_Part(word.fitted.code, 0, ~in_rest, False)]
    if word.fitted.rest is not None:
        parts.append(_Part(word.fitted.rest, word.singles, in_rest, True))
    return parts


def _decode_part(
    exposed: ExposedTensor,
    word: CodedWord,
    part: _Part,
    element: NDArray[np.uint64],
    bit: NDArray[np.uint8],
    index: int,
) -> tuple[tuple[NDArray[np.uint64], NDArray[np.uint8]], DecodedCodewords]:
    """Returns the (element, bit) of the residual flips, and the decoded codewords."""
    code, size, first = part.code, np.uint64(part.code.words), np.uint64(part.first)
    number, position = np.divmod(element - first, size)
    numbers, at = np.unique(number, return_inverse=True)
    # The flips as masks of the words and of the check word of each codeword.
    width = np.uint64(word.format.bits)
    is_check = bit >= width
    flips = np.zeros((len(numbers), code.words), np.uint64)
    check_flips = np.zeros(len(numbers), np.uint64)
    ones = np.uint64(1) << np.where(is_check, bit - width, bit).astype(np.uint64)
    in_words = ~is_check
    np.bitwise_xor.at(flips, (at[in_words], position[in_words].astype(np.intp)), ones[in_words])
    np.bitwise_xor.at(check_flips, at[is_check], ones[is_check])

    begins = first + numbers * size
    members = begins[:, None] + np.arange(code.words, dtype=np.uint64)
    is_stored = members < np.uint64(exposed.elements)
    words = np.zeros(members.shape, np.uint64)
    words[is_stored] = read_words(exposed, members[is_stored])[1]
    stored, check = code.encode(words)
    decoded = code.decode(stored ^ flips, check ^ check_flips)
    # A correction of words beyond the end of the tensor shows that there are more errors.
    detected = decoded.detected | np.where(is_stored, 0, decoded.words).any(axis=1)
    clean, after = (_as_read(word, part, each) for each in (stored, decoded.words))
    is_lost = np.broadcast_to((detected & (not code.masks_detected))[:, None], after.shape)
    if word.limits is not None:
        low, high = word.limits
        values = word.values(after.reshape(-1), np.where(is_stored, members, 0).reshape(-1))
        within = ((values >= low) & (values <= high)).reshape(after.shape)
        is_lost = is_lost | (is_stored & ~within)
        detected = detected | (is_stored & ~within).any(axis=1)
    if is_lost.any():
        numbers = np.full(is_lost.sum(), word.replacement)
        after[is_lost] = word.words(numbers, np.where(is_stored, members, 0)[is_lost])
    # Saturated numbers that memory cannot hold exactly differ from their clean words.
    changed = np.where(is_stored & (clean != after), words ^ after, np.uint64(0))
    outcome = np.where(detected, 1, np.where(changed.any(axis=1), 2, 0)).astype(np.uint8)
    found = DecodedCodewords(np.full(len(begins), index, np.uint32), begins, outcome)
    rows, columns = np.nonzero(changed)
    which, bits = _set_bits(changed[rows, columns])
    return (members[rows, columns][which], bits), found


def _as_read(word: CodedWord, part: _Part, stored: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The words that a reader sees in stored codewords, (n, words)."""
    columns = [
        word.reading_at(None if part.is_rest else i)(stored[:, i]) for i in range(part.code.words)
    ]
    return np.stack(columns, axis=1)


def _set_bits(masks: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """The (row, bit) of each set bit, ordered by row."""
    width = 64 if (masks >> np.uint64(32)).any() else 32
    as_bytes = masks.astype(f"<u{width // 8}").view(np.uint8)
    places = np.flatnonzero(np.unpackbits(as_bytes, bitorder="little"))
    return places // width, (places % width).astype(np.uint8)


def _uncoded(index: int, element: NDArray[np.uint64]) -> DecodedCodewords:
    """Words without a code: whatever flips stays wrong."""
    words = np.unique(element)
    outcome = np.full(len(words), OUTCOMES.index(MISCORRECTED), np.uint8)
    return DecodedCodewords(np.full(len(words), index, np.uint32), words, outcome)


def _places(
    parts: Sequence[tuple[int, NDArray[np.uint64], NDArray[np.uint8]]],
) -> FlipPlaces:
    tensors = [np.full(len(element), index, np.uint32) for index, element, _ in parts]
    return FlipPlaces(
        np.concatenate([np.empty(0, np.uint32), *tensors]),
        np.concatenate([np.empty(0, np.uint64), *(element for _, element, _ in parts)]),
        np.concatenate([np.empty(0, np.uint8), *(bit for *_, bit in parts)]),
    )
