"""Do bursts begin independently, at the rate that makes the BER the mean share of flipped bits?

A bit that c beginnings reach flips with probability 1 - (1 - p)^c. Everything below follows from
that and the independence of the beginnings. Bounds and seeds as in test_sampler.py.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from conftest import slow
from proact.faults import Burst, FaultSpace, Injector, Where, encode
from proact.faults.bursts import beginning_probability

SIGMAS = 5.0
CHANCE = 6e-7


class Memory(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)


def reaching(length: int, bits: int) -> list[tuple[int, int]]:
    """The first and last beginning that reach each bit, counted out."""
    return [
        (begins[0], begins[-1])
        for bit in range(bits)
        if (begins := [b for b in range(bits - length + 1) if b <= bit < b + length])
    ]


def by_bisection(ber: float, length: int, bits: int) -> float:
    """The double that is nearest to p, in exact fractions: both ends of an interval round to it."""
    counts = Counter(last - first + 1 for first, last in reaching(length, bits))
    assert sum(counts.values()) == bits
    wanted = Fraction(ber) * bits

    def misses(p: Fraction) -> bool:
        return sum(n * (1 - (1 - p) ** c) for c, n in counts.items()) < wanted

    # p lies between ber / the most beginnings, the union bound, and ber, a single beginning's.
    low, high = Fraction(ber) / max(counts), Fraction(ber)
    while float(low) != float(high):
        # A step that keeps few digits, so that powers stay small; it falls inside the interval.
        denominator = 1 << (4 - math.floor(math.log2(high - low)))
        middle = Fraction(round((low + high) / 2 * denominator), denominator)
        low, high = (middle, high) if misses(middle) else (low, middle)
    return float(low)


@pytest.mark.parametrize("ber", [1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 2**-53])
@pytest.mark.parametrize(
    ("length", "bits"),
    [(1, 1), (1, 32), (2, 2), (2, 3), (2, 32), (3, 8), (8, 8), (7, 8), (16, 32), (31, 32)],
)
def test_beginning_probability_is_the_nearest_double(ber: float, length: int, bits: int) -> None:
    assert beginning_probability(ber, length, bits) == by_bisection(ber, length, bits)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(2**-40, 1 - 2**-40), st.integers(1, 40), st.integers(0, 60))
def test_any_beginning_probability_is_the_nearest_double(
    ber: float, length: int, more: int
) -> None:
    assert beginning_probability(ber, length, length + more) == by_bisection(
        ber, length, length + more
    )


@pytest.mark.parametrize(("length", "bits"), [(1, 8), (3, 8), (8, 8), (100, 10**6)])
def test_the_ends_of_the_rates_are_exact(length: int, bits: int) -> None:
    assert beginning_probability(0.0, length, bits) == 0.0
    assert beginning_probability(1.0, length, bits) == 1.0
    smallest = beginning_probability(1e-300, length, bits)
    places = bits - length + 1  # each flips `length` bits, and they hardly ever overlap
    assert math.isclose(smallest, 1e-300 * bits / (places * length), rel_tol=1e-12)


def moments(p: float, length: int, bits: int) -> tuple[float, float, float]:
    """Mean, variance and fourth cumulant of the flipped bits of ``bits`` linear ones.

    Bit by bit: row r of ``law`` is the probability that the last burst reaches r bits further, by
    the number of bits that have flipped.
    """
    law = np.zeros((length + 1, bits + 1))
    law[0, 0] = 1
    for bit in range(bits):
        if bit <= bits - length:
            begun = p * law.sum(axis=0)
            law *= 1 - p
            law[length] += begun
        after = np.zeros_like(law)
        after[0] = law[0]
        after[:-1, 1:] += law[1:, :-1]
        law = after
    counts, chances = np.arange(bits + 1), law.sum(axis=0)
    mean = float(counts @ chances)
    variance = float((counts - mean) ** 2 @ chances)
    return mean, variance, float((counts - mean) ** 4 @ chances) - 3 * variance**2


#: Words, encoding, exposed bits, how many of a word's, length.
SPACES: list[tuple[int, str, Any, int, int]] = [
    (30, "float32", None, 32, 1),
    (30, "float32", None, 32, 2),
    (30, "float32", None, 32, 5),
    (20, "float32", None, 32, 32),
    (20, "float32", None, 32, 30),
    (50, "float32", "exponent", 8, 3),
    (50, "float32", 0xF00F0001, 9, 4),
    (60, "int8", None, 8, 3),
    (1, "float32", None, 32, 4),
    (1, "int8", "integer", 7, 5),
    (3, "bfloat16", None, 16, 7),
    (3, "q7.8", (0, 3, 15), 3, 2),
]
#: Longer than a word.
ACROSS: list[tuple[int, str, Any, int, int]] = [
    (20, "float32", None, 32, 100),
    (2, "float32", None, 32, 63),
    (4, "int8", None, 8, 20),
    (40, "float32", "sign", 1, 6),
]


@pytest.mark.parametrize("ber", [0.004, *slow(0.15), 0.8])
@pytest.mark.parametrize(
    ("within", "words", "encoding", "bits", "per_word", "length"),
    [("word", *space) for space in SPACES] + [("tensor", *space) for space in SPACES + ACROSS],
)
def test_the_mean_share_of_flipped_bits_is_the_ber(
    within: str, words: int, encoding: str, bits: Any, per_word: int, length: int, ber: float
) -> None:
    model = encode(Memory(torch.linspace(-1, 1, words).view(-1, 1)), encoding)
    elements = Where(exclude=Where(kind="scale"))  # scales have words of another width
    fault = Burst(length, ber, bits=bits, where=elements, within=within)
    injector, total, trials = (
        Injector(model, encoding),
        words * per_word,
        250 if words > 10 else 1000,
    )
    space = FaultSpace(model, encoding, elements, bits)
    assert injector.exposed_bits(fault) == space.bits == total
    assert injector.expected_ber(fault) == ber
    seen = np.zeros(trials)
    for trial in range(trials):
        with injector.trial(fault, 31, trial) as record:
            seen[trial] = record.flips
    room, parts = (per_word, words) if within == "word" else (total, 1)
    p = by_bisection(ber, length, room) if room <= 100 else beginning_probability(ber, length, room)
    mean, variance, fourth = (parts * moment for moment in moments(p, length, room))
    assert math.isclose(mean, ber * total, rel_tol=1e-9)
    assert abs(seen.mean() - ber * total) < SIGMAS * math.sqrt(variance / trials)
    if trials * ber * total > 1000 * length:  # so many bursts that s^2 is nearly normal
        spread = math.sqrt((fourth + 2 * variance**2 * trials / (trials - 1)) / trials)
        assert abs(seen.var(ddof=1) - variance) < SIGMAS * spread


@pytest.mark.parametrize(
    ("dtype", "words", "bits", "length", "within", "ber"),
    [
        (torch.int8, 200, None, 3, "word", 0.1),
        (torch.int8, 200, None, 3, "word", 0.6),
        (torch.uint8, 200, 0b10110101, 2, "word", 0.3),
        (torch.int16, 200, (0, 7, 8, 9, 15), 4, "word", 0.3),
        (torch.int8, 2, (0, 1, 7), 4, "tensor", 0.3),
        (torch.int8, 3, 0b11, 2, "tensor", 0.25),
        (torch.int8, 1, None, 3, "tensor", 0.4),
    ],
)
def test_every_pattern_of_a_small_space_has_its_probability(
    dtype: torch.dtype, words: int, bits: Any, length: int, within: str, ber: float
) -> None:
    """The exact law, from all sets of beginnings, each of which is drawn on its own."""
    model = Memory(torch.zeros(words, dtype=dtype))
    injector, fault = Injector(model, "native"), Burst(length, ber, bits=bits, within=within)
    mask = FaultSpace(model, "native", bits=bits)[0].mask
    order = [bit for bit in range(16) if mask >> bit & 1]
    group = 1 if within == "word" else words
    room = group * len(order)
    p = by_bisection(ber, length, room)
    law: defaultdict[int, float] = defaultdict(float)
    for begins in product((0, 1), repeat=room - length + 1):
        pattern, burst = 0, (1 << length) - 1
        for place, begun in enumerate(begins):
            pattern |= burst << place if begun else 0
        law[pattern] += p ** sum(begins) * (1 - p) ** (len(begins) - sum(begins))
    assert math.isclose(sum(law.values()), 1, rel_tol=1e-12)
    mean = sum(pattern.bit_count() * chance for pattern, chance in law.items())
    assert math.isclose(mean, ber * room, rel_tol=1e-12)

    seen: Counter[int] = Counter()
    for trial in range(20000 // words if within == "word" else 2500):
        with injector.trial(fault, 32, trial):
            memory = model.weight.numpy().view(f"u{dtype.itemsize}").astype(np.int64)
        flipped = np.stack([memory >> bit & 1 for bit in order], axis=1).reshape(-1, room)
        seen.update((flipped << np.arange(room)).sum(axis=1).tolist())
    assert set(seen) <= set(law)
    n = seen.total()
    rare = [pattern for pattern, chance in law.items() if n * chance < 8]
    expected = [n * law[pattern] for pattern in law if pattern not in rare]
    observed = [seen[pattern] for pattern in law if pattern not in rare]
    if rare:
        expected.append(n * sum(law[pattern] for pattern in rare))
        observed.append(sum(seen[pattern] for pattern in rare))
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    assert len(expected) > 3
    assert statistic < stats.chi2.isf(CHANCE, len(expected) - 1)


@pytest.mark.parametrize("apart", ["trial", "seed"])
@pytest.mark.parametrize("within", ["word", "tensor"])
def test_bursts_of_two_patterns_meet_by_chance(within: str, apart: str) -> None:
    """Bit i is in both with probability f_i^2; pairs of bits as in `variance`, squared."""
    words, length, ber, pairs = 60, 3, 0.05, 500
    room = 32 if within == "word" else 32 * words
    p = beginning_probability(ber, length, room)
    reach = np.array(reaching(length, room))
    flips = 1 - (1 - p) ** (reach[:, 1] - reach[:, 0] + 1)
    expected = (flips**2).sum() * 32 * words / room
    spread = 0.0
    for i, (first, last) in enumerate(reach):
        for j in range(max(i - length + 1, 0), min(i + length, room)):
            union = max(last, reach[j][1]) - min(first, reach[j][0]) + 1
            both = flips[i] + flips[j] - 1 + (1 - p) ** union
            spread += both**2 - (flips[i] * flips[j]) ** 2
    spread *= 32 * words / room
    model = Memory(torch.zeros(words, dtype=torch.int32))
    injector, fault, together = Injector(model, "native"), Burst(length, ber, within=within), 0
    for pair in range(pairs):
        patterns = []
        for later in (0, 1):
            seed, trial = (33 + later, pair) if apart == "seed" else (33, 2 * pair + later)
            with injector.trial(fault, seed, trial):
                patterns.append(np.unpackbits(model.weight.numpy().view(np.uint8)))
        together += int((patterns[0] & patterns[1]).sum())
    assert abs(together - pairs * expected) < SIGMAS * math.sqrt(pairs * spread)
