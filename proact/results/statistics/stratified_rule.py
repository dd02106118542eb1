"""Stratified campaigns: how many trials each stratum gets, and when a cell has enough.

The strata of a cell divide its fault patterns by the number of flips in the critical field
(`proact.faults.BitFlipStratum`). Their weights are exact probabilities, so that the estimate is
unbiased for any field. What remains, the fault patterns without a flip, gives the clean result and
needs no trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from proact.results.statistics.bounded import all_alike_half_width, proportion_ends
from proact.results.statistics.estimators import Prior, Trials, deviation, trial_mean
from proact.results.statistics.interval import Interval, Numbers
from proact.results.statistics.planning import normal_quantile
from proact.results.statistics.stopping import SequentialRule, confidence_at_stop, is_hopeless
from proact.results.statistics.stopping_bias import corrected_for_stopping, shift_of_stopping
from proact.results.statistics.strata import weighted_sum

#: Every stratum has this many trials or more: fewer say little about their deviation.
FEWEST_TRIALS = 16
#: The first analysis comes after this share of the trials that the pilot expects.
_FIRST = 0.5
#: A stratum has at most this many times its trials at the next analysis.
_GROWTH = 1.5
#: The next analysis comes after this many times the trials of this one, or later.
_STEP = 1.02


def allocation(
    weights: Sequence[float],
    deviations: Sequence[float],
    margin: float,
    confidence: float = 0.95,
    width: float = 1.0,
) -> list[float]:
    """The numbers of trials with which the whole's interval reaches the margin at the least cost.

    With n_h trials, stratum h adds w_h^2 (z^2 s_h^2 / n_h + u^2 / n_h^2) to the square of half the
    interval's width: the spread of its trials (W. Cochran, Sampling Techniques, 1977, section 5.5),
    and what n_h trials cannot have seen (`mean_interval`). The total sum_h n_h is least where every
    stratum gains as much from one more trial.

    Args:
        weights: of the strata in the whole, above 0; they add up to at most 1.
        deviations: the standard deviations s_h of a trial, at least 0.
        margin: half the width of the whole's interval, in the unit of the deviations.
        confidence: in (0, 1), two-sided.
        width: of the range of a trial's values.
    """
    spread, unseen = _parts_of_width(weights, deviations, confidence, width)

    def is_narrow(trials: Numbers) -> bool:
        return float((spread / trials + unseen / trials**2).sum()) <= margin**2

    return _equal_gains(spread, unseen, is_narrow)


def allocation_of(
    total: float,
    weights: Sequence[float],
    deviations: Sequence[float],
    confidence: float = 0.95,
    width: float = 1.0,
) -> list[float]:
    """The numbers of trials, ``total`` together, with which the whole's interval is narrowest.

    Args:
        total: above 0.
        weights, deviations, confidence, width: as for `allocation`.
    """
    spread, unseen = _parts_of_width(weights, deviations, confidence, width)
    return _equal_gains(spread, unseen, lambda trials: float(trials.sum()) >= total)


def _parts_of_width(
    weights: Sequence[float], deviations: Sequence[float], confidence: float, width: float
) -> tuple[Numbers, Numbers]:
    """Of each stratum, w^2 z^2 s^2 and w^2 u^2: see `allocation`."""
    w = np.asarray(weights, dtype=np.float64)
    spread = (w * normal_quantile(confidence) * np.asarray(deviations)) ** 2
    unseen = (w * all_alike_half_width(confidence) * width) ** 2
    return spread, unseen


def _equal_gains(
    spread: Numbers, unseen: Numbers, are_enough: Callable[[Numbers], bool]
) -> list[float]:
    """The least numbers of trials that are enough, with the same gain from one more trial in each
    stratum."""

    def trials_at(gain: float) -> Numbers:
        """The n_h whose next trial takes ``gain`` from the square of half the width: the root of
        gain n^3 = spread_h n + 2 unseen_h, by the formulas of Cardano and Viete."""
        third, half = spread / (3.0 * gain), unseen / gain
        inside = half**2 - third**3
        root = np.sqrt(np.maximum(inside, 0.0))
        one_root = np.cbrt(half + root) + np.cbrt(half - root)
        size = third**1.5
        cosine = np.divide(half, size, out=np.ones_like(half), where=size > half)
        three_roots = 2.0 * np.sqrt(third) * np.cos(np.arccos(cosine) / 3.0)
        roots: Numbers = np.where(inside >= 0.0, one_root, three_roots)
        return roots

    lowest, highest = -200.0, 20.0  # of log gain
    for _ in range(60):
        middle = 0.5 * (lowest + highest)
        if are_enough(trials_at(math.exp(middle))):
            lowest = middle
        else:
            highest = middle
    return [float(each) for each in trials_at(math.exp(lowest))]


@dataclass(frozen=True)
class StratifiedRule(SequentialRule):
    """Stops a cell when the interval of its stratified mean reaches at most ``margin`` to each
    side, on average of the two.

    Where a cell stops depends on the trials of its strata alone, in the order of their numbers. A
    cell without strata is one stratum with the weight 1, whose prior knowledge holds the
    probability of no flip.

    Attributes:
        margin, confidence: as for `SequentialRule`; the margin is a share of the loss if
            ``is_relative``.
        most: the largest number of trials of all strata together.
        is_relative: whether the margin is a share of the estimated loss, the distance of the mean
            from the clean result. Where no trial lost anything, the cell ends at ``most``.
    """

    is_relative: bool = False

    def first(self, planned: Sequence[float], priors: Sequence[Prior]) -> list[int]:
        """The numbers of trials at the first analysis, from those that a pilot expects. All are 0
        if no trial can flip anything."""
        if all(prior.unflipped == 1.0 for prior in priors):
            return [0] * len(planned)
        wanted = [max(math.ceil(_FIRST * each), FEWEST_TRIALS) for each in planned]
        return self._within_most(wanted, [0] * len(wanted))

    def next(
        self, weights: Sequence[float], trials: Sequence[Trials], priors: Sequence[Prior]
    ) -> list[int] | None:
        """The numbers of trials at the next analysis; None: these are enough.

        Args:
            weights: of the strata; the patterns without a flip have what remains to 1.
            trials, priors: of the strata.
        """
        seen = [each.measured + each.failed for each in trials]
        # Failed trials widen the interval however many trials follow.
        measured = [replace(each, failed=0) for each in trials]
        means = self._means(measured, priors, self.confidence)
        mean = self._corrected(weights, measured, priors, means)
        margin = self._margin(weights, means, priors[0].clean)
        if (margin > 0.0 and mean.half_width <= margin) or sum(seen) >= self.most:
            return None
        width = priors[0].highest - priors[0].lowest
        deviations = [deviation(*each) for each in zip(measured, priors, strict=True)]
        # While nothing was lost, trials grow in the proportions that narrow the interval soonest.
        aim = margin if margin > 0.0 else 0.5 * mean.half_width
        wanted = allocation(weights, deviations, aim, self.confidence_at_stop, width)
        following = [
            min(max(math.ceil(more), now), math.ceil(_GROWTH * now))
            for more, now in zip(wanted, seen, strict=True)
        ]
        least = math.ceil(_STEP * sum(seen)) + 1
        if sum(following) < least:
            # The plan counts on a narrower interval than these trials have: add in proportion.
            scale = (least + len(seen)) / sum(following)
            following = [math.ceil(scale * each) for each in following]
        return self._within_most(following, seen)

    def interval(
        self,
        weights: Sequence[float],
        trials: Sequence[Trials],
        priors: Sequence[Prior],
        confidence: float | None = None,
    ) -> Interval:
        """The interval of the mean that stopped the cell, corrected for the bias of sequential
        stopping in every stratum (`shift_of_stopping`).

        With a relative margin, the number of trials also falls with the square of the loss L, so
        that cells that met many failures stop early. By the same argument, the mean is then off by
        2 V / L towards larger losses, where V is the variance of the mean.

        A cell that ended for another reason (see `has_stopped`) is not corrected.

        Args:
            weights, trials, priors: as for `next`.
            confidence: of the interval, in (0, 1), two-sided; by default that of the rule.
        """
        means = self._means(trials, priors, self.confidence if confidence is None else confidence)
        if not self.has_stopped(trials):
            return mean_over_strata(weights, means, priors[0].clean)
        return self._corrected(weights, trials, priors, means)

    def has_stopped(self, trials: Sequence[Trials]) -> bool:
        """Whether a finished cell reached its margin. Others end for want of trials, or because
        nearly all trials of a stratum fail."""
        seen = [each.measured + each.failed for each in trials]
        return sum(seen) < self.most and not any(
            is_hopeless(each.failed, n) for each, n in zip(trials, seen, strict=True)
        )

    def _means(
        self, trials: Sequence[Trials], priors: Sequence[Prior], confidence: float
    ) -> list[Interval]:
        """The means of the strata at the stop of a cell, for a campaign's confidence."""
        level = confidence_at_stop(confidence)
        return [trial_mean(*each, level) for each in zip(trials, priors, strict=True)]

    def _margin(self, weights: Sequence[float], means: Sequence[Interval], clean: float) -> float:
        """The margin in the metric's unit; 0 if it is a share of a loss that no trial had."""
        if not self.is_relative:
            return self.margin
        # The difference of two means near the clean result would lose the digits of a small loss.
        changes = [mean.estimate - clean for mean in means]
        return self.margin * abs(
            math.fsum(w * change for w, change in zip(weights, changes, strict=True))
        )

    def _corrected(
        self,
        weights: Sequence[float],
        trials: Sequence[Trials],
        priors: Sequence[Prior],
        means: Sequence[Interval],
    ) -> Interval:
        """The mean over the strata, corrected for the bias of sequential stopping."""
        whole = mean_over_strata(weights, means, priors[0].clean)
        shift = self._shift(weights, trials, priors, whole.estimate)
        return corrected_for_stopping(whole, shift, priors[0].lowest, priors[0].highest)

    def _shift(
        self,
        weights: Sequence[float],
        trials: Sequence[Trials],
        priors: Sequence[Prior],
        estimate: float,
    ) -> float:
        shift = math.fsum(
            weight * shift_of_stopping(mine, prior, self.confidence_at_stop)
            for weight, mine, prior in zip(weights, trials, priors, strict=True)
        )
        if self.is_relative:
            shift += self._shift_of_relative_margin(weights, trials, priors, estimate)
        return shift

    def _shift_of_relative_margin(
        self,
        weights: Sequence[float],
        trials: Sequence[Trials],
        priors: Sequence[Prior],
        estimate: float,
    ) -> float:
        change = estimate - priors[0].clean
        if change == 0.0:
            return 0.0
        variance = math.fsum(
            (weight * deviation(mine, prior)) ** 2 / max(mine.measured, 1)
            for weight, mine, prior in zip(weights, trials, priors, strict=True)
        )
        return -2.0 * variance / change

    def _within_most(self, wanted: Sequence[int], seen: Sequence[int]) -> list[int]:
        more = sum(wanted) - sum(seen)
        left = self.most - sum(seen)
        if more <= left:
            return list(wanted)
        # Rounded down, with one trial for the first strata of what rounding leaves.
        scaled = [now + (then - now) * left // more for then, now in zip(wanted, seen, strict=True)]
        for index in range(self.most - sum(scaled)):
            scaled[index % len(scaled)] += 1
        return scaled


def mean_over_strata(weights: Sequence[float], means: Sequence[Interval], known: float) -> Interval:
    """The mean of strata with these weights and of what remains to 1, whose mean is known.

    Args:
        weights: of the strata, above 0; they add up to at most 1.
        means: of the strata, estimated from different trials.
        known: the mean of the rest, such as the clean result of the patterns without a flip.
    """
    rest = 1.0 - math.fsum(weights)
    return weighted_sum([*weights, rest], [*means, Interval(known, known, known)])


def stratified_quantile(
    grouped: Sequence[Numbers],
    weights: Sequence[float],
    lost: Sequence[int],
    known: float,
    level: float,
    confidence: float,
    ends: tuple[float, float],
) -> Interval:
    """A quantile of values that were drawn in strata, by inverting their distribution function.

    At every value x, the share of patterns at or below x is a weighted sum of the strata's shares,
    whose intervals are exact (`proportion_interval`). The quantile lies where the interval of this
    sum holds ``level``.

    Args:
        grouped: of each stratum: (k, 2), its values, and how many trials have each.
        weights, lost: of each stratum: its weight, and the number of its failed trials, which may
            have had any value.
        known: the value of the patterns without a flip, which have the remaining weight.
        level: in (0, 1).
        confidence: in (0, 1), two-sided.
        ends: the ends of the range of the values.
    """
    values = np.unique(np.concatenate([[known], *(each[:, 0] for each in grouped)]))
    # One more row stands for values below the smallest that was seen.
    is_known_below = np.append(0.0, known <= values)
    known_weight = 1.0 - math.fsum(weights)
    estimate = known_weight * is_known_below
    down, up = np.zeros(len(estimate)), np.zeros(len(estimate))
    for each, weight, missing in zip(grouped, weights, lost, strict=True):
        found = int(each[:, 1].sum())
        below = np.append(0.0, [each[each[:, 0] <= value, 1].sum() for value in values])
        share = below / found
        low, _ = proportion_ends(below, found + missing, confidence)
        _, high = proportion_ends(below + missing, found + missing, confidence)
        estimate = estimate + weight * share
        down = down + (weight * (share - low)) ** 2
        up = up + (weight * (high - share)) ** 2

    def first_with(shares: Numbers) -> float:
        reached = np.flatnonzero(shares >= level - 1e-12)
        ends_and_values = np.concatenate([[ends[0]], values, [ends[1]]])
        return float(ends_and_values[reached[0] if len(reached) else -1])

    lowest, highest = estimate - np.sqrt(down), estimate + np.sqrt(up)
    return Interval(first_with(estimate), first_with(highest), first_with(lowest))
