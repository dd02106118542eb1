"""Do sweeps cover the loss of the whole, and find losses that only a few trials show?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from proact.results.statistics import (
    Interval,
    Prior,
    SweepRule,
    Trials,
    stratified_mean,
    trial_mean,
)

CLEAN, LOSS, CONFIDENCE, SIGMAS = 0.9, 0.8, 0.95, 4.0


def swept(rule: SweepRule, failing: Sequence[float], rng: np.random.Generator) -> list[Interval]:
    """The means of parts whose trials lose `LOSS` with these probabilities."""
    prior = Prior(CLEAN)
    streams = [rng.random(10_000) < each for each in failing]
    targets, following = [0] * len(failing), [rule.first()] * len(failing)
    while following != targets:
        targets = following
        trials = []
        for stream, n in zip(streams, targets, strict=True):
            values, counts = np.unique(CLEAN - LOSS * stream[:n], return_counts=True)
            trials.append(Trials(values, np.full(len(values), CLEAN), counts.astype(np.float64)))
        following = rule.next(trials, [prior] * len(failing), targets, [True] * len(failing))
    return [trial_mean(each, prior, rule.confidence) for each in trials]


@pytest.mark.parametrize(
    ("failing", "margin", "trials"),
    [([0.01] * 10, None, 1000), ([0.02, 0.5], 0.02, None)],
    ids=["ten rare losses", "one rare loss beside a frequent one"],
)
def test_rare_losses_are_found(
    failing: list[float], margin: float | None, trials: int | None
) -> None:
    """Parts that met no failure in the first round get further trials too."""
    sweeps, shares = 40, [1.0 / len(failing)] * len(failing)
    rule = SweepRule(shares, CONFIDENCE, margin, trials, 10_000)
    rng = np.random.default_rng(3)
    means = [swept(rule, failing, rng) for _ in range(sweeps)]
    wholes = [stratified_mean(shares, each) for each in means]
    truth = CLEAN - LOSS * float(np.mean(failing))
    covered = sum(whole.low <= truth <= whole.high for whole in wholes) / sweeps
    assert covered >= CONFIDENCE - SIGMAS * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / sweeps)
    # What sharing trials out by their results leaves of a rare loss: nine tenths.
    losses = CLEAN - np.array([[mean.estimate for mean in each] for each in means])[:, 0]
    error = losses.std(ddof=1) / math.sqrt(sweeps)
    assert losses.mean() >= 0.8 * LOSS * failing[0] - SIGMAS * error
    assert losses.mean() <= LOSS * failing[0] + SIGMAS * error
