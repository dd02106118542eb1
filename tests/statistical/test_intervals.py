"""Do the intervals hold what they promise, for the distributions that campaigns really have?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from proact.campaign.statistics import mean_interval

RNG = np.random.default_rng(2026)
POPULATIONS = {
    "collapsed": np.clip(RNG.normal(0.10, 0.02, 5000), 0, 1),
    "half collapsed": np.where(RNG.random(5000) < 0.5, 0.97, RNG.uniform(0.05, 0.3, 5000)),
    "rare failures": np.where(RNG.random(5000) < 0.01, 0.1, 0.986),
    "failure or not": (RNG.random(5000) < 0.03).astype(float),
    "constant": np.full(10, 0.986),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("trials", [10, 60, 200])
def test_intervals_cover_the_mean(name: str, trials: int) -> None:
    population, campaigns, confidence = POPULATIONS[name], 1000, 0.9
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(campaigns):
        interval = mean_interval(rng.choice(population, trials), confidence)
        covered += interval.low <= population.mean() <= interval.high
    lowest = confidence - 3 * math.sqrt(confidence * (1 - confidence) / campaigns)
    assert covered / campaigns >= lowest


def test_a_student_interval_would_not_cover_rare_failures() -> None:
    """Why the plain interval is not used: this is what it does to a campaign of 60 trials."""
    population = POPULATIONS["rare failures"]
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        sample = rng.choice(population, 60)
        half = stats.t.isf(0.05, 59) * sample.std(ddof=1) / math.sqrt(60)
        covered += abs(sample.mean() - population.mean()) <= half
    assert covered / 1000 < 0.6


def test_intervals_narrow_with_the_root_of_the_trials() -> None:
    population = POPULATIONS["half collapsed"]
    rng = np.random.default_rng(3)

    def width(trials: int) -> float:
        intervals = [mean_interval(rng.choice(population, trials)) for _ in range(40)]
        return float(np.mean([i.high - i.low for i in intervals]))

    few, many = width(200), width(3200)
    assert few / many == pytest.approx(4.0, rel=0.15)
    normal = 2 * 1.96 * population.std() / math.sqrt(3200)
    assert many < 1.6 * normal


def test_no_failure_yet_leaves_room_for_failures() -> None:
    interval = mean_interval(np.ones(100))
    assert (interval.estimate, interval.high) == (1.0, 1.0)
    # The rule of three: a failure rate of 3/n stays unseen with a chance of 5 %.
    assert 3 / 100 < 1 - interval.low < 6 / 100


def test_other_ranges_scale() -> None:
    x = RNG.random(50)
    unit = mean_interval(x)
    wide = mean_interval(2 * x - 1, lowest=-1.0, highest=1.0)
    for a, b in zip(unit, wide, strict=True):
        assert b == pytest.approx(2 * a - 1)
    mirrored = mean_interval(1 - x)
    assert mirrored.low == pytest.approx(1 - unit.high)


@pytest.mark.parametrize("x", [[0.0], [1.0], [0.5], [0.0, 1.0], [1.0] * 5])
def test_tiny_samples_give_sane_intervals(x: list[float]) -> None:
    interval = mean_interval(x)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.high - interval.low > 0.4


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([], {}, "at least one"),
        ([0.5, 1.2], {}, "1.2"),
        ([float("nan")], {}, "nan"),
        ([0.5], {"confidence": 1.0}, "confidence"),
        ([0.5], {"confidence": float("nan")}, "confidence"),
    ],
)
def test_bad_values_are_named(values: list[float], options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mean_interval(values, **options)
