"""Do the strata of bit flips put together have the law of independent flips?

Bounds and seeds as in test_sampler.py: five standard deviations under the stated law, or a
chi-square quantile of equal chance.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from test_kinds import CHANCE, SIGMAS, Memory

from conftest import slow
from proact.faults import BitFlip, BitFlipStratum, Injector, Record, encode
from proact.faults.strata import number_of_flips, probability_of_range

pytestmark = pytest.mark.long

TRIALS = 4000
#: 3,200 exposed bits in shared tensors, 200 of them critical, and 160 in a tensor of its own.
MODEL = Memory(weight=torch.ones(10, 8), bias=torch.ones(20), own=torch.ones(5))
BASE = BitFlipStratum(1e-3, (30, 29), ("weight", "bias"))
PARTS = (200, 3000, 160)


def sites_of(record: Record) -> list[tuple[str, int, int]]:
    faults = record.faults()
    return [(str(f["tensor"]), int(f["element"]), int(f["bit"])) for f in faults]


def drawn(
    fault: BitFlip | BitFlipStratum, trials: int = TRIALS
) -> list[list[tuple[str, int, int]]]:
    """The (tensor, element, bit) of the flips of each trial."""
    injector = Injector(MODEL, "float32")
    patterns = []
    for trial in range(trials):
        with injector.trial(fault, 5, trial) as record:
            patterns.append(sites_of(record))
    return patterns


def part_of(site: tuple[str, int, int]) -> int:
    return 2 if site[0] == "own" else int(site[2] not in (29, 30))


def test_the_parts_have_these_sizes() -> None:
    assert Injector(MODEL, "float32").exposed_bits(BASE) == sum(PARTS)
    weights = [replace(BASE, in_field=(n, n)).weight(PARTS) for n in range(12)]
    assert weights == pytest.approx(stats.binom.pmf(range(12), 200, 1e-3))


@pytest.mark.parametrize(
    "limits", [{}, {"in_field": (0, 0), "elsewhere": (0, 3)}, {"in_field": (2, 2)}], ids=str
)
def test_the_expected_rate_and_the_chance_of_no_flip(limits: dict[str, Any]) -> None:
    fault, injector = replace(BASE, **limits), Injector(MODEL, "float32")
    expected, none = 0.0, 1.0
    for bits, (lowest, highest) in zip(PARTS, fault.ranges, strict=True):
        counts = np.arange(lowest, (bits if highest is None else highest) + 1)
        law = stats.binom.pmf(counts, bits, fault.ber)
        expected += float(counts @ law) / law.sum()
        none *= float(law[0] / law.sum()) if lowest == 0 else 0.0
    assert injector.expected_ber(fault) == pytest.approx(expected / sum(PARTS))
    assert injector.probability_of_none(fault) == pytest.approx(none)


@pytest.mark.parametrize(
    "limits",
    [
        {"in_field": (2, 2), "in_others": (1, None)},
        {"elsewhere": (2, 5)},
        *slow(
            {},
            {"in_field": (1, None)},
            {"in_field": (0, 0), "elsewhere": (1, None)},
            {"in_field": (0, 0), "elsewhere": (0, 0), "in_others": (1, 3)},
        ),
    ],
    ids=str,
)
def test_numbers_of_flips_are_binomial_within_their_limits(
    limits: dict[str, tuple[int, int | None]],
) -> None:
    fault = replace(BASE, **limits)
    patterns = drawn(fault)
    for part, (bits, range_) in enumerate(zip(PARTS, fault.ranges, strict=True)):
        seen = np.array([sum(part_of(site) == part for site in each) for each in patterns])
        highest = min(bits, 30) if range_[1] is None else range_[1]
        numbers = np.arange(range_[0], highest + 1)
        law = stats.binom.pmf(numbers, bits, fault.ber)
        law /= law.sum()
        assert seen.min() >= range_[0]
        assert seen.max() <= highest
        mean = float(numbers @ law)
        spread = math.sqrt(float((numbers - mean) ** 2 @ law) / TRIALS)
        assert abs(seen.mean() - mean) <= SIGMAS * spread
        expected = law * TRIALS
        common = expected >= 10.0
        counts = np.array([(seen == number).sum() for number in numbers])
        if common.sum() > 1:
            statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
            assert statistic < stats.chi2.isf(CHANCE, int(common.sum()))


def test_every_bit_of_a_part_is_equally_likely_and_flips_once() -> None:
    patterns = drawn(replace(BASE, in_field=(3, 3), elsewhere=(0, 0), in_others=(0, 0)))
    assert all(len(set(each)) == 3 for each in patterns)
    counts = Counter(site for each in patterns for site in each)
    assert len(counts) == 200
    expected = 3 * TRIALS / 200
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    # Flips of one trial are distinct, which makes the counts more even by (N - n) / (N - 1).
    assert statistic < stats.chi2.isf(CHANCE, 199)
    assert statistic > 0.9 * stats.chi2.ppf(CHANCE, 199)


def test_parts_of_one_tensor_are_independent() -> None:
    patterns = drawn(BASE)
    counts = np.array(
        [[sum(part_of(s) == part for s in each) for part in (0, 1)] for each in patterns]
    )
    correlation = np.corrcoef(counts.T)[0, 1]
    assert abs(correlation) <= SIGMAS / math.sqrt(TRIALS)
    inside = replace(BASE, in_field=(1, 1), elsewhere=(1, 1), in_others=(0, 0))
    same_word = sum(len({site[:2] for site in each}) == 1 for each in drawn(inside))
    # Either flip falls on one of 100 words.
    assert abs(same_word - TRIALS / 100) <= SIGMAS * math.sqrt(TRIALS / 100)


def test_strata_are_independent() -> None:
    """The interval of a cell adds the variances of its strata."""
    trials = 1000
    one = drawn(replace(BASE, in_field=(1, 1)), trials)
    more = drawn(replace(BASE, in_field=(2, None)), trials)
    for part, bits in enumerate(PARTS):
        mine, theirs = (
            [[s for s in each if part_of(s) == part] for each in p] for p in (one, more)
        )
        means = [sum(map(len, each)) / trials for each in (mine, theirs)]
        expected = trials * means[0] * means[1] / bits
        common = sum(len(set(a) & set(b)) for a, b in zip(mine, theirs, strict=True))
        assert abs(common - expected) <= SIGMAS * math.sqrt(expected) + 1.0


def test_variants_meet_the_same_flips_in_what_they_share() -> None:
    other = Memory(weight=torch.ones(10, 8), bias=torch.ones(20))
    fault = replace(BASE, in_field=(1, None))
    injector = Injector(other, "float32")
    for trial, pattern in enumerate(drawn(fault, 50)):
        with injector.trial(fault, 5, trial) as record:
            found = sites_of(record)
        assert found == [site for site in pattern if site[0] != "own"]


@pytest.mark.parametrize("encoding", ["q7.8", "int8", "bfloat16", "float32+secded"])
def test_strata_restore_every_word(encoding: str) -> None:
    model = encode(Memory(weight=torch.randn(64, 64), bias=torch.randn(64)), encoding)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fault = BitFlipStratum(1e-3, (6, 5), ("weight",), in_field=(2, 2), elsewhere=(1, None))
    injector = Injector(model, encoding)
    for trial in range(20):
        with injector.trial(fault, 0, trial) as record:
            assert record.flips >= 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("ber", [1e-12, 1e-7, 1e-3])
@pytest.mark.parametrize("limits", [(1, None), (2, None), (1, 1), (0, 0)])
def test_weights_are_exact_at_rare_rates(ber: float, limits: tuple[int, int | None]) -> None:
    """Against the series of the binomial distribution in exact integers."""
    bits, p = 1000, Fraction(ber)
    below = range(limits[0]) if limits[1] is None else range(limits[0], limits[1] + 1)
    chance = sum(math.comb(bits, k) * p**k * (1 - p) ** (bits - k) for k in below)
    exact = 1 - chance if limits[1] is None else chance
    assert probability_of_range(bits, ber, limits) == pytest.approx(float(exact), rel=1e-9)
    first, chances = number_of_flips(bits, ber, limits)
    assert first >= limits[0]
    assert chances.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"in_field": (201, None)},
            "in_field: expected at most 200 flips, the exposed bits of this part, got 201",
        ),
        ({"shared": ("weight", "wieght")}, "shared: no exposed tensor has the name 'wieght'"),
        ({"shared": ("weight",), "where": "bias"}, "shared: no exposed tensor has the name"),
        (
            {"where": ("weight", "bias"), "in_others": (1, None)},
            "in_others: expected at most 0 flips",
        ),
    ],
    ids=str,
)
def test_strata_that_do_not_fit_the_model(change: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Injector(MODEL, "float32").expected_ber(replace(BASE, **change))


@pytest.mark.parametrize(
    "limits", [(0, 500), (990, 1010), (1200, None), (3000, 3100), (0, 1 << 31)]
)
def test_distributions_cut_off_far_from_the_mean(limits: tuple[int, int | None]) -> None:
    bits, ber = 10**6, 1e-3
    numbers = np.arange(limits[0], min(limits[1] or 4000, 4000) + 1)
    logs = stats.binom.logpmf(numbers, bits, ber)
    law = np.exp(logs - logs.max())
    first, chances = number_of_flips(bits, ber, limits)
    mean = first + float(np.arange(len(chances)) @ chances)
    assert mean == pytest.approx(float(numbers @ law) / law.sum(), rel=1e-9)
    assert len(chances) < 10_000
    exact = math.fsum(stats.binom.pmf(numbers, bits, ber))
    assert probability_of_range(bits, ber, limits) == pytest.approx(exact, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ber": 0.0}, "must lie in"),
        ({"ber": 1.0}, "must lie in"),
        ({"in_field": (2, 1)}, "must not be empty"),
        ({"in_field": (-1, None)}, "the least number of in_field"),
        ({"shared": "weight"}, "shared must be a sequence of tensor names, got 'weight'"),
        ({"in_others": 1}, "in_others must be a pair"),
    ],
    ids=str,
)
def test_unsuitable_values(change: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        replace(BASE, **change)
