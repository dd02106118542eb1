"""How many trials each part of a sweep gets: a layer or a bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proact.results.statistics.estimators import Prior, Trials, deviation, trial_mean
from proact.results.statistics.strata import stratified_mean
from proact.results.statistics.stratified_rule import allocation_of

#: Trials of every part before its standard deviation is known.
_FIRST = 32
#: A round has at most this many times the trials of the round before.
_GROWTH = 2


@dataclass(frozen=True)
class SweepRule:
    """Shares trials out to the parts of a sweep, until the mean of the whole is narrow enough.

    Attributes:
        shares: of the parts in the whole, above 0; they need not add up to 1.
        confidence: of the interval of the whole; in (0, 1), two-sided.
        margin: half the width at which the sweep ends, in the metric's unit; None: it has none.
        trials: the largest number of trials of all parts together; None: it has no limit.
        most: the largest number of trials of a part.
    """

    shares: Sequence[float]
    confidence: float
    margin: float | None
    trials: int | None
    most: int

    def first(self) -> int:
        """The number of trials of each part in the first round."""
        return _FIRST if self.trials is None else min(_FIRST, self.trials // len(self.shares))

    def next(
        self,
        trials: Sequence[Trials],
        priors: Sequence[Prior],
        targets: Sequence[int],
        is_open: Sequence[bool],
    ) -> list[int]:
        """The numbers of trials of the parts in the next round; those of this round if it was the
        last.

        Args:
            trials, priors: of the parts.
            targets: the numbers of trials of the parts in this round.
            is_open: whether a part may have further trials.
        """
        # Failed trials widen the interval however many trials follow.
        measured = [replace(each, failed=0) for each in trials]
        means = [trial_mean(*each, self.confidence) for each in zip(measured, priors, strict=True)]
        half_width = stratified_mean(self.shares, means).half_width
        if not any(is_open) or (self.margin is not None and half_width <= self.margin):
            return list(targets)
        given = sum(targets)
        total = _GROWTH * given
        if self.margin is not None:
            # The width falls with the root of the trials; 10 % more keeps the number of rounds low.
            total = min(total, int(1.1 * given * (half_width / self.margin) ** 2) + 1)
        if self.trials is not None:
            total = min(total, self.trials)
        if total <= given:
            return list(targets)
        # A part without any effect so far may have one that its trials have not met, and gets
        # trials for that too. Otherwise the parts that met a failure by luck would get all trials,
        # and the others would keep a loss of 0.
        deviations = [deviation(*each) for each in zip(measured, priors, strict=True)]
        width = priors[0].highest - priors[0].lowest
        wanted = allocation_of(total, self.shares, deviations, self.confidence, width)
        more = [
            max(math.ceil(each) - now, 0) if opened else 0
            for each, now, opened in zip(wanted, targets, is_open, strict=True)
        ]
        # Parts that already have more than their share leave fewer trials for the others.
        scale = min((total - given) / max(sum(more), 1), 1.0)
        return [
            min(now + int(scale * extra), self.most)
            for now, extra in zip(targets, more, strict=True)
        ]
