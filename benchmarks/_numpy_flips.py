"""The script that a careful numpy user would write without proact: flip, and flip back.

Two ways to draw distinct positions. `distinct_by_unique` is the obvious one. `distinct_by_sorting`
knows that numpy 2.3 and later hash in `numpy.unique`, which is several times slower than sorting
once a tensor has many flips, and that 32-bit positions sort faster than 64-bit ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Positions = NDArray[Any]
#: (generator, size of the population, how many) -> that many distinct positions in rising order
Draw = Callable[[np.random.Generator, int, int], Positions]
#: An array, the indices of its faulted words (each once), and what they were XORed with.
Flipped = tuple[Words, NDArray[np.intp], Words]


def distinct_by_unique(random: np.random.Generator, population: int, count: int) -> Positions:
    """Whatever was drawn before is drawn again, which leaves all sets of ``count`` alike likely."""
    drawn = np.unique(random.integers(0, population, count))
    while drawn.size < count:
        more = random.integers(0, population, count - drawn.size)
        drawn = np.unique(np.concatenate((drawn, more)))
    return drawn


def distinct_by_sorting(random: np.random.Generator, population: int, count: int) -> Positions:
    """The same law: what comes twice is dropped, and as many are drawn again."""
    dtype = np.uint32 if population <= 1 << 32 else np.uint64
    drawn = random.integers(0, population, count, dtype=dtype)
    drawn.sort()
    while not (fresh := drawn[1:] != drawn[:-1]).all():
        kept = drawn[np.concatenate(([True], fresh))]
        more = random.integers(0, population, count - kept.size, dtype=dtype)
        more.sort()
        drawn = np.concatenate((kept, more))
        drawn.sort(kind="stable")  # merges two sorted runs, where the default would start over
    return drawn


def inject(
    arrays: list[Words], ber: float, random: np.random.Generator, draw: Draw
) -> list[Flipped]:
    """Flips every bit of the arrays with probability ``ber``; returns what `restore` needs."""
    flipped = []
    counts = random.binomial([32 * array.size for array in arrays], ber).tolist()
    for array, count in zip(arrays, counts, strict=True):
        if count == 0:
            continue
        position = draw(random, 32 * array.size, count)
        word = (position >> 5).astype(np.intp)
        mask = np.left_shift(np.uint32(1), (position & 31).astype(np.uint32))
        # `array[word] ^= mask` is fast, and right only where no word comes twice.
        is_first = np.ones(count, dtype=bool)
        np.not_equal(word[1:], word[:-1], out=is_first[1:])
        if not is_first.all():
            first = np.flatnonzero(is_first)
            word, mask = word[first], np.bitwise_or.reduceat(mask, first)
        array[word] ^= mask
        flipped.append((array, word, mask))
    return flipped


def restore(flipped: list[Flipped]) -> None:
    for array, word, mask in flipped:
        array[word] ^= mask
