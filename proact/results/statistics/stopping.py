"""The stopping rule: the times of interim analyses, and the decision that a cell is finished.

Fixed-width intervals by purely sequential sampling: Y. Chow and H. Robbins, Ann. Math. Stat. 36
(1965). The rule looks at the width alone, never at the estimate, so that an interval at the time of
stopping keeps its coverage but for the chance that mean and spread are off together. That is what
rare failures do, and `mean_interval` answers it: it counts one of them in before any was seen, and
is not narrow before enough trials had the chance to meet them. What is left costs about half a
percent of coverage, for which the interval is made at a confidence slightly higher than specified.
docs/statistics.md compares this with group sequential and anytime-valid rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from proact.results.statistics.bounded import all_alike_half_width
from proact.results.statistics.estimators import Prior, Trials, adjusted, trial_mean
from proact.results.statistics.interval import Interval, checked_confidence, checked_margin
from proact.results.statistics.planning import normal_quantile
from proact.results.statistics.stopping_bias import corrected_for_stopping, shift_of_stopping

#: The share of alpha that remains for the interval at the time of stopping.
PRICE_OF_STOPPING = 0.9
_STEP = 8
#: A cell or a difference ends early if it has this many failures and most of its trials failed.
_MANY_FAILURES = 20
_GROWTH = 1.02
#: The normal interval postpones the next analysis until it is within this factor of the margin.
_NEARLY = 1.1


@dataclass(frozen=True)
class ProgressEstimate:
    """A quick estimate of how far a cell is, for progress bars.

    Attributes:
        estimate: the mean so far, in the metric's unit.
        half_width: about half the width of its interval.
        expected: about the number of trials, those so far included, until that is the margin.
    """

    estimate: float
    half_width: float
    expected: int


@dataclass(frozen=True)
class SequentialRule:
    """What the rules that stop a cell at a margin have in common.

    Attributes:
        margin: half the intended width, in the metric's unit; for accuracies in (0, 1].
        confidence: in (0, 1), two-sided.
        most: the largest number of trials.
    """

    margin: float
    confidence: float = 0.95
    most: int = (1 << 32) - 1

    def __post_init__(self) -> None:
        checked_margin(self.margin)
        checked_confidence(self.confidence)

    @property
    def confidence_at_stop(self) -> float:
        """The confidence of intervals at the stop, which corrects for the interim analyses."""
        return confidence_at_stop(self.confidence)


def confidence_at_stop(confidence: float) -> float:
    """The confidence of intervals at the stop of a cell: 1 - 0.9 (1 - ``confidence``).

    It corrects for the interim analyses: 0.955 for a campaign's 0.95.
    """
    return 1.0 - PRICE_OF_STOPPING * (1.0 - confidence)


def is_hopeless(failed: int, trials: int) -> bool:
    """Whether so many trials failed that further ones are not worth their time: at least 20 of
    them, and more than half of ``trials``, the number of all."""
    return failed >= _MANY_FAILURES and 2 * failed > trials


class StoppingRule(SequentialRule):
    """Stops a cell when the interval of its mean reaches at most ``margin`` to each side, on
    average of the two.

    Where a cell stops depends on its trials alone, in the order of their numbers, and not on who
    ran them or in which portions.
    """

    def interval(self, trials: Trials, prior: Prior, confidence: float | None = None) -> Interval:
        """The interval of the mean that stopped the cell: `trial_mean`, corrected by
        `shift_of_stopping`.

        A cell that ended for another reason (see `has_stopped`) is not corrected.

        Args:
            trials, prior: as for `trial_mean`.
            confidence: of the interval, in (0, 1), two-sided; by default that of the rule.
        """
        level = self.confidence if confidence is None else confidence
        mean = trial_mean(trials, prior, confidence_at_stop(level))
        if not self.has_stopped(trials):
            return mean
        shift = shift_of_stopping(trials, prior, self.confidence_at_stop)
        return corrected_for_stopping(mean, shift, prior.lowest, prior.highest)

    def has_stopped(self, trials: Trials) -> bool:
        """Whether a finished cell reached its margin. Others end for want of trials, or because
        nearly all trials fail."""
        seen = trials.measured + trials.failed
        return seen < self.most and not is_hopeless(trials.failed, seen)

    def first(self, prior: Prior) -> int:
        """The number of trials before which no data can be narrow enough: those that all being
        alike would take. 0 where what is known without a trial is enough."""
        width = (1.0 - (prior.unflipped or 0.0)) * (prior.highest - prior.lowest)
        if 0.5 * width <= self.margin:
            return 0
        # Trials without a flip say nothing about those with one.
        flipped = all_alike_half_width(self.confidence_at_stop)
        wanted = flipped * width / self.margin / (1.0 - (prior.unflipped or 0.0))
        return self._look(math.floor(wanted))

    def next(self, trials: Trials, prior: Prior) -> int | None:
        """The number of trials at the next interim analysis; None: these are enough."""
        seen = trials.measured + trials.failed
        if seen >= self.most:
            return None
        error = _normal_half_width(trials, prior, self.confidence)
        if error > _NEARLY * self.margin:
            wanted = math.floor(seen * (error / _NEARLY / self.margin) ** 2)
            return self._look(max(wanted, seen + 1))  # rounded down, it may be where we are
        # Failed trials widen the interval however many trials follow.
        if self.interval(replace(trials, failed=0), prior).half_width <= self.margin:
            return None
        return self._look(seen + 1)

    def progress_estimate(self, trials: Trials, prior: Prior) -> ProgressEstimate:
        """The estimate that progress bars show; it takes microseconds."""
        seen = trials.measured + trials.failed
        values, counts = adjusted(trials, prior)
        share = 1.0 - (prior.unflipped or 0.0)
        width = share * (prior.highest - prior.lowest)
        if not len(values):
            return ProgressEstimate(prior.clean, 0.5 * width, max(self.first(prior), seen))
        n = counts.sum()
        spread = _normal_half_width(trials, prior, self.confidence)
        unseen = min(all_alike_half_width(self.confidence) / n, 0.5) * width
        mean = (1.0 - share) * prior.clean + share * float(values @ counts / n)
        # What spreads falls with the root of the trials, what is unseen with their number.
        ahead = max((spread / self.margin) ** 2, unseen / self.margin)
        expected = min(max(math.ceil(seen * ahead), seen), self.most)
        return ProgressEstimate(mean, math.hypot(spread, unseen), expected)

    def _look(self, trials: int) -> int:
        """The number of trials of the first interim analysis at or after ``trials``."""
        n = _STEP
        while n < trials:
            n = max(n + _STEP, _STEP * math.ceil(_GROWTH * n / _STEP))
        return min(n, self.most)


def _normal_half_width(trials: Trials, prior: Prior, confidence: float) -> float:
    """Half the width of the normal interval, a quick check; 0 for less than two trials."""
    values, counts = adjusted(trials, prior)
    n = counts.sum()
    if n < 2:
        return 0.0
    mean = values @ counts / n
    error = math.sqrt(float((values - mean) ** 2 @ counts) / (n - 1) / n)
    half_width = normal_quantile(confidence) * error * (1.0 - (prior.unflipped or 0.0))
    return half_width if np.isfinite(half_width) else 0.0
