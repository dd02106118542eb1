"""The strata of a sweep: parts of the fault space, and the loss when a fault hits one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proact.results.statistics import (
    Interval,
    Prior,
    Trials,
    confidence_at_stop,
    stratified_mean,
    trial_mean,
)


@dataclass(frozen=True)
class Stratum:
    """A part of the fault space.

    Attributes:
        name: a layer's qualified name; a bit's number (0 is the lowest), after the name of its
            word where the encoding has words of several kinds: ``7``, ``int8 7``; or likewise a
            field: ``exponent``, ``int8 sign``.
        share: of the exposed bits, in (0, 1].
        value: mean of the metric when the fault hits this part, with its interval.
        loss: how much worse ``value`` is than the metric without faults, with its interval.
        trials: number of trials, failed ones included.
        failed: number of failed trials; the intervals are wider by their share.
    """

    name: str
    share: float
    value: Interval
    loss: Interval
    trials: int
    failed: int = 0

    @property
    def is_missing(self) -> bool:
        """Whether no trial has a result."""
        return self.trials == self.failed


def stratum(
    name: str, share: float, trials: Trials, prior: Prior, confidence: float, better_higher: bool
) -> Stratum:
    """A stratum from its trials; the confidence is that of `sweep_confidence`."""
    value = trial_mean(trials, prior, confidence)
    loss = _loss(prior.clean, value, better_higher)
    return Stratum(name, share, value, loss, trials.measured + trials.failed, trials.failed)


def joined(name: str, parts: Sequence[Stratum]) -> Stratum:
    """One stratum in place of several, which a fault hits in proportion to their bits."""
    shares = [part.share for part in parts]
    return Stratum(
        name,
        sum(shares),
        stratified_mean(shares, [part.value for part in parts]),
        stratified_mean(shares, [part.loss for part in parts]),
        sum(part.trials for part in parts),
        sum(part.failed for part in parts),
    )


def sweep_confidence(margin: float | None, confidence: float) -> float:
    """The level of a sweep's intervals: slightly above ``confidence`` where a margin stopped it."""
    return confidence if margin is None else confidence_at_stop(confidence)


def shares_of(bits: Sequence[int]) -> list[float]:
    """The share of each part in the exposed bits."""
    return [each / sum(bits) for each in bits]


def _loss(clean: float, value: Interval, is_better_higher: bool) -> Interval:
    if is_better_higher:
        return Interval(clean - value.estimate, clean - value.high, clean - value.low)
    return Interval(value.estimate - clean, value.low - clean, value.high - clean)
