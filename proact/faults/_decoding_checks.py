"""The checks of `verify` for encodings with a code: the filter, and the memory after decoding.

Both are stated here a second time, without `proact.faults.decoding`: flips are sorted into
codewords one by one, and every codeword that was hit is encoded, flipped and decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from proact.encodings.base import Words
from proact.encodings.coded_word import CodedWord
from proact.encodings.codes import Code
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.overwritten_words import rows_by_tensor
from proact.faults.target_memory import read_words
from proact.ops.plan import FlipPlaces

_LEAST_DECODED = 200.0  # expected codewords with more flips than the code corrects

Row = tuple[int, int, int]  # tensor, element, bit


class WordsRead(NamedTuple):
    """The words of the format that are read at elements of a tensor.

    Attributes:
        element: uint64 (n,).
        words: uint64 (n,).
        is_promised: whether the decoder corrects all errors that the code promises to correct.
    """

    element: NDArray[np.uint64]
    words: Words
    is_promised: bool = True


def decoding_ber(exposed: Sequence[ExposedTensor], ber: float) -> float:
    """``ber``, or the least multiple of it at which some hundred codewords are not corrected.

    It is a power of two times ``ber`` and at most 1/2.
    """
    while ber <= 0.25 and sum(_uncorrected(tensor, ber) for tensor in exposed) < _LEAST_DECODED:
        ber *= 2
    return ber


def _uncorrected(exposed: ExposedTensor, ber: float) -> float:
    """The expected number of codewords with more flips than the code corrects."""
    word = exposed.word
    code = word.fitted.code if isinstance(word, CodedWord) else None
    codewords = exposed.elements if code is None else -(-exposed.elements // code.words)
    most = 0 if code is None else code.corrects
    return codewords * float(stats.binom.sf(most, exposed.bits / codewords, ber))


def uncorrected(exposed: Sequence[ExposedTensor], places: FlipPlaces) -> tuple[list[Row], int]:
    """The flips of codewords that the code may not correct, and the number of other codewords.

    The flips are in order. Single words after the last full codeword are never dropped.
    """
    hit: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in zip(*(column.tolist() for column in places), strict=True):
        hit[row[0], _beginning(exposed[row[0]], row[1])].append(row)
    left: list[Row] = []
    dropped = 0
    for (index, begin), flips in sorted(hit.items()):
        word = exposed[index].word
        corrects = 0
        if isinstance(word, CodedWord) and begin < word.singles:
            corrects = word.fitted.code.corrects
        if len(flips) > corrects:
            left += sorted(flips)
        else:
            dropped += 1
    return left, dropped


def _beginning(exposed: ExposedTensor, element: int) -> int:
    """The first element of the codeword of an element."""
    word = exposed.word
    if not isinstance(word, CodedWord) or element >= word.singles:
        return element
    return element - element % word.fitted.code.words


def words_read(
    exposed: ExposedTensor, element: NDArray[np.uint64], bit: NDArray[np.uint8]
) -> Iterator[WordsRead]:
    """The words that a reader sees in the codewords in which bits flip.

    Args:
        exposed: the tensor; its memory holds clean values.
        element, bit: distinct stored bits.
    """
    word = exposed.word
    if not isinstance(word, CodedWord):
        hit, inverse = np.unique(element, return_inverse=True)
        words = read_words(exposed, hit)[1]
        np.bitwise_xor.at(words, inverse, np.uint64(1) << bit.astype(np.uint64))
        yield WordsRead(hit, words)
        return
    is_single = element >= np.uint64(word.singles)
    for code, rows in ((word.fitted.code, ~is_single), (word.fitted.rest, is_single)):
        if code is not None and rows.any():
            begin = 0 if code is word.fitted.code else word.singles
            flips = list(zip(element[rows].tolist(), bit[rows].tolist(), strict=True))
            yield _codewords_read(exposed, word, code, begin, flips)


def _codewords_read(
    exposed: ExposedTensor,
    word: CodedWord,
    code: Code,
    begin: int,
    flips: list[tuple[int, int]],
) -> WordsRead:
    numbers = sorted({(element - begin) // code.words for element, _ in flips})
    row_of = {number: row for row, number in enumerate(numbers)}
    members = np.array(numbers, np.uint64)[:, None] * np.uint64(code.words) + np.uint64(begin)
    members = members + np.arange(code.words, dtype=np.uint64)
    exists = members < np.uint64(exposed.elements)
    clean = np.zeros(members.shape, np.uint64)
    clean[exists] = read_words(exposed, members[exists])[1]
    stored, check = (encoded.copy() for encoded in code.encode(clean))
    times = np.zeros(len(numbers), np.int64)
    for element, bit in flips:
        number, position = divmod(element - begin, code.words)
        row = row_of[number]
        times[row] += 1
        if bit < word.format.bits:
            stored[row, position] ^= np.uint64(1 << bit)
        else:
            check[row] ^= np.uint64(1 << (bit - word.format.bits))
    decoded, detected = code.decode(stored, check)
    read = np.empty_like(decoded)
    for position in range(code.words):
        reading = word.reading_at(None if code is word.fitted.rest else position)
        read[:, position] = reading(decoded[:, position])
    # Words beyond the end of the tensor are 0: a correction there is wrong.
    is_lost = (detected | (decoded * ~exists).any(axis=1))[:, None] & exists
    is_lost &= not code.masks_detected
    if word.limits is not None:
        low, high = word.limits
        values = np.zeros(read.shape)
        values[exists] = word.values(read[exists], members[exists])
        is_lost |= exists & ~((low <= values) & (values <= high))
    read[is_lost] = word.words(np.full(int(is_lost.sum()), word.replacement), members[is_lost])
    is_promised = bool((read == clean)[times <= code.corrects].all())
    return WordsRead(members[exists], read[exists], is_promised)


def codewords_hit(exposed: Sequence[ExposedTensor], places: FlipPlaces) -> int:
    """The number of codewords in which bits flip."""
    return sum(
        len({_beginning(exposed[index], element) for element in places.element[rows].tolist()})
        for index, rows in rows_by_tensor(places.tensor)
    )
