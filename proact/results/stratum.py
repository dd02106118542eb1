"""What a part of the fault space loses: the strata of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proact.results.statistics import Interval, Known, StoppingRule, Trials, trial_mean


@dataclass(frozen=True)
class Stratum:
    """A part of the fault space.

    Attributes:
        name: a layer's qualified name, or a bit's number (0 the lowest).
        share: of the exposed bits, in (0, 1].
        value: mean of the metric when the fault hits this part, with its interval.
        loss: how much worse ``value`` is than the metric without faults, with its interval.
        trials: how many, those that could not be run included.
        failed: how many could not be run; the intervals are wider by their share.
    """

    name: str
    share: float
    value: Interval
    loss: Interval
    trials: int
    failed: int = 0

    @property
    def is_missing(self) -> bool:
        """Whether no trial tells anything, as all could not be run."""
        return self.trials == self.failed


def stratum(
    name: str, share: float, trials: Trials, known: Known, confidence: float, better_higher: bool
) -> Stratum:
    """A stratum from its trials; the confidence is `sweep_confidence`."""
    value = trial_mean(trials, known, confidence)
    loss = _loss(known.clean, value, better_higher)
    return Stratum(name, share, value, loss, trials.measured + trials.failed, trials.failed)


def sweep_confidence(margin: float | None, confidence: float) -> float:
    """At which a sweep's intervals are made: a little more than asked where a margin stopped it."""
    return confidence if margin is None else StoppingRule(margin, confidence).confidence_at_stop


def shares_of(bits: Sequence[int]) -> list[float]:
    """Of the whole, in proportion to the exposed bits."""
    return [each / sum(bits) for each in bits]


def _loss(clean: float, value: Interval, is_better_higher: bool) -> Interval:
    if is_better_higher:
        return Interval(clean - value.estimate, clean - value.high, clean - value.low)
    return Interval(value.estimate - clean, value.low - clean, value.high - clean)
