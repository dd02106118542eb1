"""Estimates the mean of a cell: strata, the clean result as control variate, failed trials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from proact.results.statistics.bounded import mean_interval
from proact.results.statistics.interval import Interval, Numbers


@dataclass(frozen=True, eq=False)
class Trials:
    """The measurements of some trials of a cell; equal ones are grouped.

    Attributes:
        values: (k,), means over the images of a trial, of trials with a flip or more.
        clean: (k,), the same of the model without faults, on the same images.
        counts: (k,), how many trials each pair of them stands for.
        unflipped: how many trials flipped nothing.
        failed: number of failed trials.
    """

    values: Numbers
    clean: Numbers
    counts: Numbers
    unflipped: int = 0
    failed: int = 0

    @property
    def flipped(self) -> int:
        """The number of trials with a result in which at least one bit flipped."""
        return int(self.counts.sum())

    @property
    def measured(self) -> int:
        """Trials with a result, those without a flip included."""
        return self.flipped + self.unflipped


@dataclass(frozen=True)
class Prior:
    """The knowledge of a cell before its first trial.

    Attributes:
        clean: the mean over all images without faults.
        unflipped: the probability that a trial flips nothing; None where it is unknown.
        lowest, highest: the ends of the range that a trial's value lies in.
        is_clean_without_flips: whether a trial that flips nothing gives the clean result. Faults in
            activations that an encoding rounds do not.
    """

    clean: float
    unflipped: float | None = None
    lowest: float = 0.0
    highest: float = 1.0
    is_clean_without_flips: bool = True


def trial_mean(trials: Trials, prior: Prior, confidence: float = 0.95) -> Interval:
    """The mean over fault patterns of the mean over all images: two-stage sampling of trials, and
    of images within each.

    Trials are the independent units, so that their spread holds both stages' variance (W. Cochran,
    Sampling Techniques, 1977, sections 10.3 and 11.2). Two things make it smaller without a run:

    * A trial without a flip gives the clean result, and how often that happens is known: q. The
      estimate is q clean + (1 - q) m, with m the mean of trials that flipped something
      (stratification with known weights, Cochran section 5.3).
    * The clean result c_t on the images of trial t is known, and its mean over all images
      too: y_t - b (c_t - clean) has the mean of y_t and less variance, with the slope b of y_t on
      c_t (regression estimator, Cochran section 7.3), held in [0, 1].

    Failed trials may have had any value: they count as the lowest one for the lower end of the
    interval, and as the highest one for the upper end.

    Args:
        trials: the measurements; without any, the interval is what is known beforehand.
        prior: the knowledge before the first trial.
        confidence: in (0, 1), two-sided; see `mean_interval`.
    """
    values, counts = adjusted(trials, prior)
    estimate, low, high = _mean_of(values, counts, prior, confidence)
    if trials.failed:
        # Trials without a flip do not fail: these are among the others.
        def with_failed(value: float) -> Interval:
            all_values, all_counts = np.append(values, value), np.append(counts, trials.failed)
            return _mean_of(all_values, all_counts, prior, confidence)

        low, high = with_failed(prior.lowest).low, with_failed(prior.highest).high
    if prior.unflipped is not None:
        share = 1.0 - prior.unflipped
        estimate, low, high = (
            prior.unflipped * prior.clean + share * end for end in (estimate, low, high)
        )

    def inside(value: float) -> float:
        return float(min(max(value, prior.lowest), prior.highest))

    return Interval(inside(estimate), inside(low), inside(high))


def adjusted(trials: Trials, prior: Prior) -> tuple[Numbers, Numbers]:
    """The values that are averaged, y_t - b (c_t - clean), and how often each was seen."""
    values = trials.values - slope(trials) * (trials.clean - prior.clean)
    counts = trials.counts
    if prior.unflipped is None and trials.unflipped:
        values = np.append(values, prior.clean)
        counts = np.append(counts, trials.unflipped)
    return values, counts


def deviation(trials: Trials, prior: Prior) -> float:
    """The standard deviation, per trial, of the mean that `trial_mean` estimates, in the metric's
    unit; 0 for fewer than two trials with a flip. The arguments are those of `trial_mean`.
    """
    values, counts = adjusted(trials, prior)
    n = counts.sum()
    if n < 2:
        return 0.0
    mean = values @ counts / n
    variance = float((values - mean) ** 2 @ counts) / (n - 1)
    share = 1.0 - (prior.unflipped or 0.0)
    # n of a trial's mean come from about n / share trials.
    return math.sqrt(variance * share)


def slope(trials: Trials) -> float:
    """The slope of a trial's value on the clean model's, in [0, 1].

    1 where a few images change, 0 where what is left has nothing to do with what was there. Its
    error makes a bias of order 1 / trials, far below the interval.
    """
    n = trials.counts.sum()
    if n < 3:
        return 0.0
    clean = trials.clean - trials.clean @ trials.counts / n
    values = trials.values - trials.values @ trials.counts / n
    variance = float(clean * clean @ trials.counts)
    if variance <= n * (1e-12 * np.abs(trials.clean).max()) ** 2:
        return 0.0
    return min(max(float(values * clean @ trials.counts) / variance, 0.0), 1.0)


def _mean_of(values: Numbers, counts: Numbers, prior: Prior, confidence: float) -> Interval:
    if not len(values):
        return Interval(prior.clean, prior.lowest, prior.highest)
    # What is added for the images' luck can reach beyond the range.
    lowest, highest = min(prior.lowest, values.min()), max(prior.highest, values.max())
    return mean_interval(values, confidence, lowest, highest, counts)
