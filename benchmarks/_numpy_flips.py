"""Injection as a careful numpy user would write it without proact: flip bits, then flip them back.

`inject` draws for each array, `inject_at_once` for all of them together. There are two ways to draw
distinct positions. `distinct_by_unique` is the obvious one.
`distinct_by_sorting` is faster for many flips: since version 2.3 `numpy.unique` hashes, which takes
several times as long as sorting, and 32-bit positions sort faster than 64-bit ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Positions = NDArray[Any]
#: Draws (generator, population, count): ``count`` distinct positions in [0, population), rising.
Draw = Callable[[np.random.Generator, int, int], Positions]
#: An array, the indices of its faulted words (each once), and the masks that flipped them.
Flipped = tuple[Words, NDArray[np.intp], Words]


def distinct_by_unique(random: np.random.Generator, population: int, count: int) -> Positions:
    """Draws again until there are ``count`` positions; every set of them is equally likely."""
    drawn = np.unique(random.integers(0, population, count))
    while drawn.size < count:
        more = random.integers(0, population, count - drawn.size)
        drawn = np.unique(np.concatenate((drawn, more)))
    return drawn


def distinct_by_sorting(random: np.random.Generator, population: int, count: int) -> Positions:
    """Drops repeated positions and draws as many again; the distribution is the same."""
    dtype = np.uint32 if population <= 1 << 32 else np.uint64
    drawn = random.integers(0, population, count, dtype=dtype)
    drawn.sort()
    while not (fresh := drawn[1:] != drawn[:-1]).all():
        kept = drawn[np.concatenate(([True], fresh))]
        more = random.integers(0, population, count - kept.size, dtype=dtype)
        more.sort()
        drawn = np.concatenate((kept, more))
        drawn.sort(kind="stable")  # merges two sorted runs, which the default does not
    return drawn


def inject(
    arrays: list[Words], ber: float, random: np.random.Generator, draw: Draw
) -> list[Flipped]:
    """Flips each bit of the arrays with probability ``ber``; `restore` takes the returned list."""
    flipped = []
    counts = random.binomial([32 * array.size for array in arrays], ber).tolist()
    for array, count in zip(arrays, counts, strict=True):
        if count == 0:
            continue
        position = draw(random, 32 * array.size, count)
        word = (position >> 5).astype(np.intp)
        mask = np.left_shift(np.uint32(1), (position & 31).astype(np.uint32))
        # `array[word] ^= mask` is fast, but it is correct only if no word is repeated.
        is_first = np.ones(count, dtype=bool)
        np.not_equal(word[1:], word[:-1], out=is_first[1:])
        if not is_first.all():
            first = np.flatnonzero(is_first)
            word, mask = word[first], np.bitwise_or.reduceat(mask, first)
        array[word] ^= mask
        flipped.append((array, word, mask))
    return flipped


def inject_at_once(
    arrays: list[Words], ber: float, random: np.random.Generator, draw: Draw
) -> list[Flipped]:
    """As `inject`, with one draw of positions for all arrays, which is faster for many arrays."""
    ends = np.cumsum([32 * array.size for array in arrays])
    population = int(ends[-1])
    position = draw(random, population, int(random.binomial(population, ber)))
    word = (position >> 5).astype(np.intp)
    mask = np.left_shift(np.uint32(1), (position & 31).astype(np.uint32))
    is_first = np.ones(position.size, dtype=bool)
    np.not_equal(word[1:], word[:-1], out=is_first[1:])
    if not is_first.all():
        first = np.flatnonzero(is_first)
        word, mask = word[first], np.bitwise_or.reduceat(mask, first)
    flipped = []
    begin = 0
    first_words = (ends >> 5).tolist()
    for array, first_of_next, end in zip(
        arrays, first_words, np.searchsorted(word, first_words).tolist(), strict=True
    ):
        if end > begin:
            own, masks = word[begin:end] - (first_of_next - array.size), mask[begin:end]
            array[own] ^= masks
            flipped.append((array, own, masks))
            begin = end
    return flipped


def restore(flipped: list[Flipped]) -> None:
    for array, word, mask in flipped:
        array[word] ^= mask
