"""Do intervals of cells that stop at a margin hold the mean, however rare the failures are?

Trials have two values, so nothing is simulated: the state of a campaign is its number of trials and
of failures, and the probability of each state follows from the binomial distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from conftest import slow
from proact.results.statistics import Interval, Prior, StoppingRule, Trials, shift_of_stopping

#: States with a smaller probability are left out.
NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class TwoValues:
    """Trials that give the clean value or, in a failure, ``broken``; and how cells of them end."""

    margin: float
    broken: float
    confidence: float = 0.95
    clean: float = 0.9

    def trials(self, n: int, failures: int) -> Trials:
        counted = [(self.clean, n - failures), (self.broken, failures)]
        values, counts = np.array([each for each in counted if each[1]], dtype=np.float64).T
        return Trials(values, np.full(len(values), self.clean), counts)

    @property
    def rule(self) -> StoppingRule:
        return StoppingRule(self.margin, self.confidence)


@cache
def looked_at(cell: TwoValues, n: int, failures: int) -> tuple[int | None, Interval, float]:
    """The next number of trials, the interval, and the corrected share of failures."""
    trials, rule = cell.trials(n, failures), cell.rule
    is_failure = (trials.values != cell.clean).astype(np.float64)
    prior = Prior(cell.clean)
    share = failures / n + shift_of_stopping(trials, prior, rule.confidence_at_stop, is_failure)
    return rule.next(trials, prior), rule.interval(trials, prior), share


def outcome(cell: TwoValues, probability: float) -> tuple[float, float, float]:
    """The probability that the interval holds the mean, and the means of the estimated loss and of
    the estimated share of failures, each divided by what it estimates."""
    loss = (cell.clean - cell.broken) * probability
    truth = cell.clean - loss
    first = cell.rule.first(Prior(cell.clean))
    start = binom.pmf(range(first + 1), first, probability)
    states = {first: {k: float(w) for k, w in enumerate(start)}}
    held = estimated = shares = ended = 0.0
    while states:
        n = min(states)
        for failures, weight in states.pop(n).items():
            if weight < NEGLIGIBLE:
                continue
            following, interval, share = looked_at(cell, n, failures)
            if following is None:
                ended += weight
                held += weight * (interval.low - 1e-12 <= truth <= interval.high + 1e-12)
                estimated += weight * (cell.clean - interval.estimate)
                shares += weight * share
                continue
            more = following - n
            later = states.setdefault(following, {})
            for extra, chance in enumerate(binom.pmf(range(more + 1), more, probability)):
                later[failures + extra] = later.get(failures + extra, 0.0) + weight * float(chance)
    assert ended == pytest.approx(1.0, abs=1e-6)
    return held, estimated / loss, shares / probability


#: The probabilities of a failure, in units of the margin: from failures that most campaigns do not
#: meet to those that decide when each campaign stops.
PROBABILITIES = [0.05, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]


@pytest.mark.parametrize(
    "cell",
    [
        TwoValues(0.05, 0.1),
        TwoValues(0.05, 0.6),
        *slow(TwoValues(0.05, 0.0, 0.99), TwoValues(0.01, 0.0, clean=1.0)),
        *slow(*(TwoValues(0.01, broken) for broken in (0.0, 0.1, 0.6)), TwoValues(0.002, 0.1)),
    ],
    ids=str,
)
def test_every_rate_of_failures_is_covered(cell: TwoValues) -> None:
    for each in PROBABILITIES:
        held, loss, share = outcome(cell, each * cell.margin)
        # Intervals change in steps of one failure, which costs up to two fifths of alpha.
        assert held >= 1.0 - 1.4 * (1.0 - cell.confidence), each
        # Without a correction, the mean of a rare loss would be 0.7 of it.
        assert 0.85 <= loss <= 1.1, each
        assert 0.85 <= share <= 1.1, each
