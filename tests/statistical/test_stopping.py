"""Do campaigns that stop when they are narrow enough cover the mean, and do they stop in time?

Measured on recorded trials (campaigns.py). "In time" is held against an oracle that knows the
variance: (z sd / margin)^2 trials, but no fewer than after which one who saw no failure at all
could exclude, by the exact interval of Clopper and Pearson, that there are any to speak of. Nobody
who does not know the distribution can stop earlier and not miss failures (or survivors) that he
has not seen: trials that never change anything have no variance, and their plain oracle is zero.

Collapsed cells with 16 images a trial and cells with rare failures miss the goal of 1.3, and are
marked as expected failures: see docs/statistics.md.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from campaigns import CELLS, Stream, guarded_oracle, stopped
from scipy.stats import t as student

from conftest import slow
from proact.results.statistics import Interval, Prior, StoppingRule, stopping

pytestmark = pytest.mark.long

CONFIDENCE, COVERED, IN_TIME = 0.95, 0.94, 1.3
SIGMAS = 4.0
SEED = 11


@cache
def simulated(name: str, images: int, margin: float, campaigns: int) -> tuple[float, float, float]:
    """Coverage in [0, 1], mean trials over those of the oracle, and that ratio's standard error."""
    cell, rule, rng = CELLS[name](), StoppingRule(margin, CONFIDENCE), np.random.default_rng(SEED)
    trials, covered = np.zeros(campaigns), 0
    for i in range(campaigns):
        trials[i], interval = stopped(rule, cell.prior, Stream(cell, images, rng))
        assert interval.half_width <= margin
        covered += interval.low <= cell.mean <= interval.high
    ratios = trials / guarded_oracle(cell, images, margin)
    return covered / campaigns, ratios.mean(), ratios.std(ddof=1) / math.sqrt(campaigns)


#: The cells that are proved, with images a trial; eight are the fewest that `images_per_trial`
#: proposes.
PROVED = [
    ("collapsed", 16),
    ("collapsed", 8),
    ("half-collapsed", 16),
    ("half-collapsed", 8),
    ("rare", 16),
    ("rare", 8),
    ("constant", 16),
    ("constant", 8),
]
#: Cells in which a few trials decide.
RARE = ["rare", "rare 3 %", "rare survivors"]
#: Cells that do not stop in time, with the ratio measured over 1,000 campaigns.
LATE = {("collapsed", 16): 1.56, ("rare", 16): 1.41, ("rare", 8): 1.40}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "images"), PROVED)
def test_2000_campaigns_cover_the_mean(name: str, images: int) -> None:
    coverage, _, _ = simulated(name, images, 0.01, 2000)
    assert coverage >= COVERED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["collapsed", "half-collapsed", *RARE])
def test_a_higher_confidence_than_that_of_the_stop_is_covered(name: str) -> None:
    """The share of misses is at most 1.2 times the nominal one, as at 95 %."""
    cell, rule, rng = CELLS[name](), StoppingRule(0.01, CONFIDENCE), np.random.default_rng(SEED)
    covered, campaigns = 0, 2000
    for _ in range(campaigns):
        stream = Stream(cell, 16, rng)
        trials, _ = stopped(rule, cell.prior, stream)
        interval = rule.interval(stream.grouped(trials), cell.prior, 0.99)
        covered += interval.low <= cell.mean <= interval.high
    assert covered / campaigns >= 1.0 - 1.2 * 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images"),
    [
        pytest.param(*cell, marks=pytest.mark.xfail(reason=f"measured: {LATE[cell]}"))
        if cell in LATE
        else cell
        for cell in PROVED
    ],
)
def test_2000_campaigns_stop_in_time(name: str, images: int) -> None:
    _, ratio, _ = simulated(name, images, 0.01, 2000)
    assert ratio <= IN_TIME


def least(campaigns: int) -> float:
    """The share of so few that has to cover, when 0.94 of all do."""
    return COVERED - SIGMAS * math.sqrt(COVERED * (1 - COVERED) / campaigns)


@pytest.mark.parametrize(
    ("name", "margin"),
    [
        ("collapsed", 0.01),
        ("rare", 0.01),
        ("constant", 0.01),
        *slow(("half-collapsed", 0.02), ("rare 3 %", 0.01), ("rare survivors", 0.01)),
    ],
)
def test_campaigns_cover_the_mean(name: str, margin: float) -> None:
    campaigns = 80
    coverage, ratio, error = simulated(name, 16, margin, campaigns)
    assert coverage >= least(campaigns)
    if (name, 16) not in LATE:
        assert ratio <= IN_TIME + SIGMAS * error


def test_without_the_unseen_rare_failures_are_missed() -> None:
    """The same looks, and Student's interval: the guard matters, and these tests can fail."""
    cell, margin, campaigns = CELLS["rare"](), 0.01, 600
    rng = np.random.default_rng(SEED)
    covered = 0
    for _ in range(campaigns):
        interval = student_stopped(cell.prior, Stream(cell, 16, rng), margin)
        covered += interval.low <= cell.mean <= interval.high
    # 0.99^168: nearly a fifth of the campaigns has met no failure at the first look.
    assert covered / campaigns < least(campaigns)


def student_stopped(prior: Prior, stream: Stream, margin: float) -> Interval:
    """Student's t interval of values less their control, at the rule's looks, once it is narrow."""
    rule = StoppingRule(margin, CONFIDENCE)
    trials = rule.first(prior)
    while True:
        right, clean = stream.first(trials)
        slope = min(max(np.cov(right, clean)[0, 1] / clean.var(ddof=1), 0.0), 1.0)
        values = right - slope * (clean - prior.clean)
        error = values.std(ddof=1) / math.sqrt(trials)
        half = float(student.ppf(0.5 + 0.5 * CONFIDENCE, trials - 1)) * error
        if half <= margin:
            return Interval(values.mean(), values.mean() - half, values.mean() + half)
        trials = rule._look(trials + 1)


@pytest.mark.parametrize("over", [1.0 + 1e-9, 1.1 + 1e-9, 1.101, 3.0])
def test_a_look_is_always_further_on(over: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the cheap look expects to be narrow a fraction of a trial from here."""
    cell, rule = CELLS["collapsed"](), StoppingRule(0.01)
    monkeypatch.setattr(stopping, "_normal_half_width", lambda *_: over * rule.margin)
    seen = rule.first(cell.prior)
    stream = Stream(cell, 16, np.random.default_rng(SEED))
    following = rule.next(stream.grouped(seen), cell.prior)
    assert following is not None
    assert following > seen


def test_nothing_goes_beyond_the_most() -> None:
    cell, rule = CELLS["half-collapsed"](), StoppingRule(0.01, most=500)
    trials, interval = stopped(rule, cell.prior, Stream(cell, 16, np.random.default_rng(SEED)))
    assert trials == 500
    assert interval.half_width > 0.01


def test_cells_that_are_known_take_no_trial() -> None:
    prior = Prior(0.9, unflipped=0.985)
    assert StoppingRule(0.01).first(prior) == 0
    assert StoppingRule(0.005).first(prior) > 0
