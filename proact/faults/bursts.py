"""Bursts: the probability that one begins, and the bits that bursts flip."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from proact.faults.exposed_tensor import ExposedMemory, ExposedTensor
from proact.faults.kinds import Burst
from proact.ops.number_formats import bit_numbers
from proact.ops.plan import FlipPlaces, FlipPlan


@lru_cache(maxsize=1024)
def beginning_probability(ber: float, length: int, bits: int) -> float:
    """The probability p that a burst begins at each of the ``bits - length + 1`` possible places.

    A bit that bursts from c places can reach flips with probability 1 - (1 - p)^c; p is chosen so
    that the mean over all bits is ``ber``. Decimal arithmetic gives the same p on every machine.
    """
    if ber in (0.0, 1.0):
        return ber
    most = min(length, bits - length + 1)
    # At each end one bit is reached from c = 1, 2, ... places; all others are from `most`.
    reached = dict.fromkeys(range(1, most), 2)
    reached[most] = bits - 2 * (most - 1)
    with localcontext() as context:
        context.prec = 40 - Decimal(ber).adjusted() + len(str(bits))
        wanted = Decimal(ber) * bits
        p = wanted / sum(c * n for c, n in reached.items())
        # Newton's method from below: the mean is concave in p, so that no step overshoots.
        for _ in range(200):
            q = 1 - p
            mean, slope, power = Decimal(0), Decimal(0), Decimal(1)
            for c in range(1, most + 1):
                slope += reached[c] * c * power
                power *= q
                mean += reached[c] * (1 - power)
            step = (wanted - mean) / slope
            p += step
            if abs(step) < p * Decimal("1e-25"):
                break
    return min(float(p), 1.0)


def check_fits(burst: Burst, exposed: Sequence[ExposedTensor]) -> None:
    """ValueError if a tensor or a word is too small for a burst."""
    for tensor in exposed:
        for memory in tensor.memories:
            per_word = memory.mask.bit_count()
            available = per_word if burst.within == "word" else per_word * memory.words
            if burst.length > available:
                words = "check words" if memory.first_bit else burst.within
                raise ValueError(
                    f"a burst of {burst.length} bits does not fit into a {words} of "
                    f"{tensor.name}, which has {available} exposed bits"
                )


def burst_places(
    burst: Burst, ber: float, exposed: Sequence[ExposedTensor], seed: int, trial: int
) -> FlipPlaces:
    """The bits that the bursts of one trial flip: distinct, ordered by tensor, element and bit."""
    found = [np.empty((3, 0), np.uint64)]
    for index, tensor in enumerate(exposed):
        for memory in tensor.memories:
            element, bit = _places_in(burst, ber, memory, seed, trial)
            if memory.first_bit:
                element = element * np.uint64(tensor.words_per_check)
            found.append(np.stack([np.full(len(element), index, np.uint64), element, bit]))
    tensors, elements, flipped = np.concatenate(found, axis=1)
    return FlipPlaces(tensors.astype(np.uint32), elements, flipped.astype(np.uint8))


def _places_in(
    burst: Burst, ber: float, memory: ExposedMemory, seed: int, trial: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The word and the bit number of each flip in one memory, in ascending order."""
    bits = np.array(bit_numbers(memory.mask), np.uint64) + np.uint64(memory.first_bit)
    per_word = len(bits)
    whole = memory.words * per_word
    if burst.within == "word":
        starts, reach = per_word - burst.length + 1, per_word
    else:
        starts, reach = per_word, whole
    plan = FlipPlan()
    plan.add_unread(memory.words, memory.stream, (1 << starts) - 1)
    drawn = plan.flip(beginning_probability(ber, burst.length, reach), seed, trial).columns()
    first = drawn.element * np.uint64(per_word) + drawn.bit
    if burst.within == "tensor":
        first = first[first + np.uint64(burst.length) <= whole]
    places = np.unique(first[:, None] + np.arange(burst.length, dtype=np.uint64))
    word, rank = _word_and_rank(places, memory.words, per_word, burst.interleaving)
    order = np.lexsort((rank, word))
    return word[order], bits[rank[order]]


def _word_and_rank(
    places: NDArray[np.uint64], words: int, per_word: int, interleaving: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The word at each place in memory, and which of its exposed bits is there.

    In a group of d words, bit b of word j is at place ``b * d + j`` of the group.
    """
    of_group = np.uint64(interleaving * per_word)
    group, place = np.divmod(places, of_group)
    first = group * np.uint64(interleaving)
    size = np.minimum(np.uint64(words) - first, np.uint64(interleaving))  # the last is smaller
    rank, word = np.divmod(place, size)
    return first + word, rank
