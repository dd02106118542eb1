"""Do the intervals hold what they promise, for the distributions that campaigns really have?

Seeds are fixed. A coverage may lie four standard deviations of a binomial share below what is
promised.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from conftest import slow
from proact.results.statistics import (
    Interval,
    Prior,
    Trials,
    betting_interval,
    bounded,
    mean_interval,
    proportion_interval,
    quantile_interval,
    stratified_mean,
    trial_mean,
)

pytestmark = pytest.mark.long

Method = Callable[..., Interval]
RNG = np.random.default_rng(2026)
POPULATIONS: dict[str, NDArray[np.float64]] = {
    "collapsed": np.clip(RNG.normal(0.10, 0.02, 5000), 0, 1),
    "two humps": np.where(RNG.random(5000) < 0.5, 0.97, RNG.uniform(0.05, 0.3, 5000)),
    "rare failures": np.where(RNG.random(5000) < 0.01, 0.1, 0.986),
    "failure or not": (RNG.random(5000) < 0.03).astype(float),
    "uniform": RNG.random(5000),
    "almost constant": np.where(RNG.random(5000) < 0.05, 0.985, 0.986),
}
SIGMAS = 4.0


def least(confidence: float, campaigns: int) -> float:
    return confidence - SIGMAS * math.sqrt(confidence * (1 - confidence) / campaigns)


def coverage(
    method: Method, population: NDArray[np.float64], trials: int, confidence: float, campaigns: int
) -> float:
    rng, mean, covered = np.random.default_rng(7), population.mean(), 0
    for _ in range(campaigns):
        interval = method(rng.choice(population, trials), confidence)
        covered += interval.low <= mean <= interval.high
    return covered / campaigns


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("trials", [20, *slow(60, 200)])
@pytest.mark.parametrize("confidence", [*slow(0.9), 0.95])
def test_intervals_cover_the_mean(name: str, trials: int, confidence: float) -> None:
    seen = coverage(mean_interval, POPULATIONS[name], trials, confidence, 400)
    assert seen >= least(confidence, 400)


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("trials", [10, *slow(60, 200)])
def test_betting_intervals_cover_the_mean(name: str, trials: int) -> None:
    seen = coverage(betting_interval, POPULATIONS[name], trials, 0.9, 400)
    assert seen >= least(0.9, 400)


@pytest.mark.parametrize("name", POPULATIONS)
def test_ends_are_quantiles_of_randomly_weighted_means(name: str) -> None:
    """Against draws of the weights; the saddle point's error may be a hundredth of the level."""
    values, draws, level = np.random.default_rng(3).choice(POPULATIONS[name], 30), 100_000, 0.025
    interval = mean_interval(values, 1 - 2 * level)
    weights = np.random.default_rng(4).dirichlet(np.append(np.ones(30), bounded._UNSEEN), draws)
    below = (weights @ np.append(values, 0.0) < interval.low).mean()
    above = (weights @ np.append(values, 1.0) > interval.high).mean()
    error = SIGMAS * math.sqrt(level * (1 - level) / draws) + 0.01 * level
    assert below == pytest.approx(level, abs=error)
    assert above == pytest.approx(level, abs=error)


@pytest.mark.parametrize(("hits", "trials"), [(0, 50), (1, 50), (7, 20), (50, 100), (399, 400)])
def test_a_whole_unseen_trial_makes_the_exact_interval(
    hits: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = binomtest(hits, trials).proportion_ci(0.95, method="exact")
    values = np.repeat([0.0, 1.0], [trials - hits, hits])
    ours = mean_interval(values)
    monkeypatch.setattr(bounded, "_UNSEEN", 1.0)
    whole = mean_interval(values)
    tolerance = 4e-3 * (exact.high - exact.low)
    assert whole.low == pytest.approx(exact.low, abs=tolerance)
    assert whole.high == pytest.approx(exact.high, abs=tolerance)
    assert ours.half_width < whole.half_width
    counted = mean_interval([0.0, 1.0], counts=[trials - hits, hits]) if hits > 0 else whole
    assert counted == pytest.approx(whole)


def test_intervals_narrow_with_the_root_of_the_trials() -> None:
    population = POPULATIONS["two humps"]
    rng = np.random.default_rng(3)

    def width(method: Method, trials: int) -> float:
        return float(np.mean([method(rng.choice(population, trials)).half_width for _ in range(9)]))

    normal = 1.96 * population.std() / math.sqrt(3200)
    assert width(mean_interval, 3200) == pytest.approx(normal, rel=0.02)
    few, many = width(betting_interval, 200), width(betting_interval, 3200)
    assert few / many == pytest.approx(4.0, rel=0.15)
    assert many < 1.6 * normal


@pytest.mark.parametrize("method", [mean_interval, betting_interval])
def test_no_failure_yet_leaves_room_for_failures(method: Method) -> None:
    interval = method(np.ones(100))
    assert (interval.estimate, interval.high) == (1.0, 1.0)
    # The rule of three: a failure rate of 3/n stays unseen with a chance of 5 %.
    assert 2.9 / 100 < 1 - interval.low < 6 / 100


@pytest.mark.parametrize("method", [mean_interval, betting_interval])
def test_other_ranges_scale(method: Method) -> None:
    x = np.random.default_rng(8).random(50)
    unit = method(x)
    assert method(2 * x - 1, lowest=-1.0, highest=1.0) == pytest.approx([2 * a - 1 for a in unit])
    mirrored = method(1 - x)
    assert mirrored.low == pytest.approx(1 - unit.high)


@pytest.mark.parametrize("method", [mean_interval, betting_interval])
@pytest.mark.parametrize("x", [[0.0], [1.0], [0.5], [0.0, 1.0], [1.0] * 5])
def test_tiny_samples_give_sane_intervals(x: list[float], method: Method) -> None:
    interval = method(x)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.high - interval.low > 0.4


@pytest.mark.parametrize("method", [mean_interval, betting_interval])
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
def test_bad_values_are_named(
    values: list[float], options: dict[str, float], words: str, method: Method
) -> None:
    with pytest.raises(ValueError, match=words):
        method(values, **options)


def test_proportions_at_the_ends() -> None:
    none = proportion_interval(0, 100)
    assert (none.estimate, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025**0.01)
    everything = proportion_interval(100, 100)
    assert (everything.estimate, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(0.025**0.01)
    assert proportion_interval(0, 0) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="5 of 4"):
        proportion_interval(5, 4)


@pytest.mark.parametrize("name", ["uniform", "two humps", "rare failures"])
@pytest.mark.parametrize("level", [0.05, 0.5])
def test_quantiles_are_covered(name: str, level: float) -> None:
    population, campaigns, covered = POPULATIONS[name], 1000, 0
    truth = np.quantile(population, level, method="inverted_cdf")
    rng = np.random.default_rng(9)
    for _ in range(campaigns):
        interval = quantile_interval(rng.choice(population, 80), level)
        covered += interval.low <= truth <= interval.high
    assert covered / campaigns >= least(0.95, campaigns)
    # So few trials say nothing about what one in a hundred stays below.
    assert quantile_interval(population[:20], 0.01).low == 0.0


def of(values: NDArray[np.float64], clean: NDArray[np.float64], **more: int) -> Trials:
    return Trials(values, clean, np.ones(len(values)), **more)


def test_the_clean_network_takes_the_images_luck_out() -> None:
    rng = np.random.default_rng(5)
    clean = rng.binomial(50, 0.9, 300) / 50
    values = clean - (rng.random(300) < 0.2) * 0.02
    controlled, plain = trial_mean(of(values, clean), Prior(0.9)), mean_interval(values)
    assert controlled.half_width < 0.85 * plain.half_width
    assert controlled.low <= 0.896 <= controlled.high
    unrelated = rng.permutation(clean)
    useless = trial_mean(of(values, unrelated), Prior(0.9))
    assert useless.half_width == pytest.approx(plain.half_width, rel=0.02)


def test_trials_without_a_flip_are_known() -> None:
    values, clean = np.array([0.1, 0.4, 0.2, 0.6]), np.full(4, 0.9)
    flipped = mean_interval(values)
    half = trial_mean(of(values, clean), Prior(0.9, 0.5))
    assert half == pytest.approx([0.45 + 0.5 * x for x in flipped])
    # How many of them there were by luck changes nothing.
    assert trial_mean(of(values, clean, unflipped=40), Prior(0.9, 0.5)) == half
    # Unknown chance: they are trials as others.
    pooled = trial_mean(of(values, clean, unflipped=2), Prior(0.9))
    assert pooled == pytest.approx(mean_interval([*values, 0.9, 0.9]))
    nothing = of(values[:0], clean[:0])
    assert trial_mean(nothing, Prior(0.9, 0.99)) == pytest.approx((0.9, 0.891, 0.901))
    assert trial_mean(nothing, Prior(0.9)) == (0.9, 0.0, 1.0)


def test_failed_trials_may_have_held_anything() -> None:
    values, clean = np.array([0.1, 0.4, 0.2, 0.6]), np.full(4, 0.9)
    sound, prior = trial_mean(of(values, clean), Prior(0.9)), Prior(0.9)
    broken = trial_mean(of(values, clean, failed=2), prior)
    assert broken.estimate == sound.estimate
    assert broken.low == pytest.approx(mean_interval([*values, 0.0, 0.0]).low)
    assert broken.high == pytest.approx(mean_interval([*values, 1.0, 1.0]).high)


@pytest.mark.parametrize(("trials", "failing"), [(200, 0.05), (400, 0.2)])
def test_intervals_hold_the_mean_that_failed_trials_hid(trials: int, failing: float) -> None:
    """The trials that fail are those that lose everything: the worst case."""
    rng, campaigns = np.random.default_rng(5), 300
    covered = critical = 0
    for failed in rng.binomial(trials, failing, campaigns):
        seen = Trials(np.array([0.9]), np.array([0.9]), np.array([trials - failed]), failed=failed)
        found = trial_mean(seen, Prior(0.9))
        covered += found.low <= 0.9 * (1.0 - failing) <= found.high
        share = proportion_interval(0, trials - failed, missing=failed)
        critical += share.low <= failing <= share.high
    least = 0.95 - 4.0 * math.sqrt(0.95 * 0.05 / campaigns)
    assert min(covered, critical) / campaigns >= least


def test_strata_add_up() -> None:
    z = float(norm.ppf(0.975))
    means = [Interval(m, m - z * e, m + z * e) for m, e in ((0.2, 0.01), (0.5, 0.03))]
    whole = stratified_mean([3.0, 1.0], means)
    error = z * math.hypot(0.75 * 0.01, 0.25 * 0.03)
    assert whole == pytest.approx((0.275, 0.275 - error, 0.275 + error))
    lopsided = stratified_mean([1.0], [Interval(0.0, 0.0, 0.1)])
    assert lopsided == pytest.approx((0.0, 0.0, 0.1))
