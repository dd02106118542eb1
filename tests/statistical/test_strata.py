"""Do campaigns that draw their trials in strata cover the mean, whatever the strata are?

Simulated on recorded trials (campaigns.py): each stratum has a recorded distribution and an exact
weight, and the patterns without a flip have the clean result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from campaigns import CELLS, KnownCell, Stream, mixed_in, stopped

from conftest import slow
from proact.results.statistics import (
    Interval,
    Prior,
    StoppingRule,
    StratifiedRule,
    Trials,
    allocation,
    allocation_of,
    mean_interval,
    mean_over_strata,
    stratified_quantile,
)

pytestmark = pytest.mark.long

CONFIDENCE, COVERED, SIGMAS, SEED, IMAGES = 0.95, 0.94, 4.0, 12, 16


@dataclass(frozen=True)
class StratifiedCell:
    """A cell whose strata have known distributions.

    Attributes:
        weights: of the strata; the patterns without a flip have the rest.
        names: of their distributions in `campaigns.CELLS`.
        planned: the numbers of trials that a pilot expects.
        margin: of its campaigns.
        most: the largest number of trials.
        is_relative: whether the margin is a share of the loss.
    """

    weights: Sequence[float]
    names: Sequence[str]
    planned: Sequence[float]
    margin: float
    most: int = (1 << 32) - 1
    is_relative: bool = False

    @property
    def cells(self) -> list[KnownCell]:
        return [CELLS[name]() for name in self.names]

    @property
    def clean(self) -> float:
        return self.cells[0].prior.clean

    @property
    def mean(self) -> float:
        whole = sum(w * cell.mean for w, cell in zip(self.weights, self.cells, strict=True))
        return whole + (1.0 - sum(self.weights)) * self.clean


#: Strata as at several rates, a field that misses the bits that matter, and plans that are wrong.
STRATIFIED = {
    "one critical flip is rare": StratifiedCell(
        (0.55, 0.027), ("intact", "half-collapsed"), (95.0, 18.0), 0.01
    ),
    "narrow": StratifiedCell((0.55, 0.027), ("intact", "half-collapsed"), (400.0, 250.0), 0.002),
    "several critical flips": StratifiedCell(
        (0.4, 0.3, 0.15, 0.1),
        ("intact", "half-collapsed", "half-collapsed", "collapsed"),
        (100.0, 400.0, 200.0, 100.0),
        0.01,
    ),
    "failures elsewhere": StratifiedCell(
        (0.6, 0.05), ("rare", "half-collapsed"), (100.0, 20.0), 0.005
    ),
    "the field does not matter": StratifiedCell(
        (0.5, 0.4), ("rare 3 %", "rare 3 %"), (50.0, 50.0), 0.01
    ),
    "rare survivors": StratifiedCell(
        (0.5, 0.4), ("constant", "rare survivors"), (80.0, 150.0), 0.01
    ),
    "no effect": StratifiedCell((0.8, 0.1), ("constant", "constant"), (130.0, 20.0), 0.01),
    "planned for nothing": StratifiedCell((0.3, 0.6), ("rare", "half-collapsed"), (1.0, 1.0), 0.02),
    "a tenth of the loss, 1e-9": StratifiedCell(
        (0.0087, 0.00027), ("constant", "half-collapsed"), (1500.0, 500.0), 0.1, is_relative=True
    ),
    "a tenth of the loss, 1e-7": StratifiedCell(
        (0.55, 0.027), ("intact", "half-collapsed"), (500.0, 300.0), 0.1, is_relative=True
    ),
    "half of a rare loss": StratifiedCell((1.0,), ("rare",), (0.0,), 0.5, is_relative=True),
    "few trials": StratifiedCell(
        (0.3, 0.5, 0.15), ("rare", "half-collapsed", "collapsed"), (1.0, 1.0, 1.0), 0.02, most=5
    ),
}


def campaign(cell: StratifiedCell, rng: np.random.Generator) -> tuple[int, Interval]:
    """The number of trials and the interval of one campaign, as the engine runs it."""
    rule = StratifiedRule(cell.margin, CONFIDENCE, cell.most, cell.is_relative)
    streams = [Stream(each, IMAGES, rng) for each in cell.cells]
    priors = [Prior(each.prior.clean, 0.0) for each in cell.cells]
    targets: list[int] | None = rule.first(cell.planned, priors)
    while targets is not None:
        enough = targets
        trials = [s.grouped(n) for s, n in zip(streams, enough, strict=True)]
        targets = rule.next(cell.weights, trials, priors)
    return sum(enough), rule.interval(cell.weights, trials, priors)


@cache
def simulated(name: str, campaigns: int) -> tuple[float, float, float, float]:
    """The share of campaigns whose interval holds the mean, their mean number of trials, and the
    mean of their estimates with its standard error."""
    cell, rng = STRATIFIED[name], np.random.default_rng(SEED)
    covered = trials = 0
    estimates = np.zeros(campaigns)
    for i in range(campaigns):
        n, interval = campaign(cell, rng)
        assert interval.half_width <= cell.margin or n == cell.most
        estimates[i] = interval.estimate
        covered += interval.low <= cell.mean <= interval.high
        trials += n
    error = float(estimates.std(ddof=1)) / math.sqrt(campaigns)
    return covered / campaigns, trials / campaigns, float(estimates.mean()), error


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATIFIED)
def test_2000_campaigns_cover_the_mean(name: str) -> None:
    coverage, _, estimate, error = simulated(name, 2000)
    cell = STRATIFIED[name]
    assert coverage >= COVERED
    # What the corrections for sequential stopping leave is small beside the loss. Without a loss,
    # both sides are rounding errors.
    left = SIGMAS * error + 0.01 * abs(cell.clean - cell.mean)
    assert abs(estimate - cell.mean) <= left + 1e-12


@pytest.mark.parametrize(
    "name", ["narrow", "few trials", *slow("one critical flip is rare", "no effect")]
)
def test_60_campaigns_cover_the_mean(name: str) -> None:
    campaigns = 60
    coverage, *_ = simulated(name, campaigns)
    assert coverage >= COVERED - SIGMAS * math.sqrt(COVERED * (1 - COVERED) / campaigns)


@pytest.mark.parametrize(("name", "least"), [("narrow", 3.0), ("several critical flips", 1.2)])
def test_strata_need_fewer_trials_than_plain_draws(name: str, least: float) -> None:
    """Of the same patterns, drawn without regard to the strata."""
    cell, rng = STRATIFIED[name], np.random.default_rng(SEED)
    plain = mixed_in(cell.cells, cell.weights)
    prior = Prior(cell.clean, 1.0 - sum(cell.weights))
    rule = StoppingRule(cell.margin, CONFIDENCE)
    # The simulated trials all have a flip; the rule counts on those without one.
    needed = [stopped(rule, prior, Stream(plain, IMAGES, rng))[0] for _ in range(5)]
    assert np.mean(needed) >= least * simulated(name, 20)[1]


def test_the_allocation_is_the_cheapest() -> None:
    """Moving trials from one stratum to another makes the interval wider or costs more."""
    weights, deviations, margin = [0.5, 0.1, 0.01], [0.0, 0.3, 0.4], 0.005

    def half_width(n: Sequence[float]) -> float:
        z, unseen = 1.959964, mean_interval([1.0] * 100000).half_width * 100000
        return math.sqrt(
            sum(
                (w * z * s) ** 2 / k + (w * unseen / k) ** 2
                for w, s, k in zip(weights, deviations, n, strict=True)
            )
        )

    best = allocation(weights, deviations, margin)
    assert half_width(best) == pytest.approx(margin, rel=1e-2)
    for one in range(3):
        for other in range(3):
            moved = list(best)
            moved[one] += 0.02 * best[one]
            moved[other] -= 0.02 * best[one]
            if one != other and moved[other] > 0:
                assert half_width(moved) > half_width(best)


def test_a_total_is_shared_out_as_for_a_margin() -> None:
    weights, deviations = [0.5, 0.1, 0.01], [0.0, 0.3, 0.4]
    best = allocation(weights, deviations, 0.005)
    assert allocation_of(sum(best), weights, deviations) == pytest.approx(best, rel=1e-6)


def test_weights_add_up_with_what_is_known() -> None:
    means = [Interval(0.5, 0.4, 0.6), Interval(0.1, 0.0, 0.3)]
    whole = mean_over_strata([0.2, 0.1], means, 0.9)
    assert whole.estimate == pytest.approx(0.2 * 0.5 + 0.1 * 0.1 + 0.7 * 0.9)
    assert whole.low == pytest.approx(whole.estimate - math.hypot(0.02, 0.01))
    assert whole.high == pytest.approx(whole.estimate + math.hypot(0.02, 0.02))


def test_quantiles_cover() -> None:
    """The 10 % quantile of two strata and the patterns without a flip."""
    rng = np.random.default_rng(SEED)
    weights, campaigns, covered = [0.3, 0.2], 200, 0
    # 0.1 = 0.3 F1(x) + 0.2 F2(x), with uniform values in [0, 1] and [0, 0.5]: x = 0.1 / 0.7.
    for _ in range(campaigns):
        grouped = [np.stack([rng.uniform(0.0, end, 60), np.ones(60)], axis=1) for end in (1.0, 0.5)]
        found = stratified_quantile(grouped, weights, [0, 0], 0.9, 0.1, CONFIDENCE, (0.0, 1.0))
        assert found.low <= found.estimate <= found.high
        covered += found.low <= 0.1 / 0.7 <= found.high
    assert covered / campaigns >= CONFIDENCE - SIGMAS * math.sqrt(0.95 * 0.05 / campaigns)


def test_a_quantile_beyond_what_was_seen_is_the_end_of_the_range() -> None:
    grouped = [np.array([[0.8, 20.0]])]
    low = stratified_quantile(grouped, [1.0], [1], 0.9, 0.01, CONFIDENCE, (0.0, 1.0))
    assert (low.low, low.estimate) == (0.0, 0.8)


def test_looks_stop_at_the_most() -> None:
    rule = StratifiedRule(0.001, most=100)
    some = [Prior(0.5, 0.0)] * 2
    assert sum(rule.first([400.0, 300.0], some)) == 100
    assert rule.first([0.0], [Prior(0.5, 1.0)]) == [0]
    alike = Trials(np.array([0.5]), np.array([0.5]), np.array([50.0]))
    assert rule.next([0.5, 0.5], [alike, alike], some) is None
