"""Correct means for the bias of sequential stopping: cells that meet few failures stop early."""

from __future__ import annotations

import numpy as np

from proact.results.statistics.bounded import all_alike_half_width
from proact.results.statistics.estimators import Prior, Trials, adjusted
from proact.results.statistics.interval import Interval, Numbers
from proact.results.statistics.planning import normal_quantile


def shift_of_stopping(
    trials: Trials, prior: Prior, confidence: float, of: Numbers | None = None
) -> float:
    """The correction of a mean for the bias of sequential stopping.

    The number of trials N follows the variance S^2 of the values, and means are correlated with
    S^2: cov(mean of c, S^2) = cov(c, (z - mu)^2) / n for a quantity c of trials with the values z.
    For the values themselves this is m3 / n, with m3 the third central moment. A run that met few
    failures has a small S^2 and stops early, with too high a mean. If N is in proportion to S^2,
    the mean of c is off by -cov(c, (z - mu)^2) / (sigma^2 n) on average. With two values a distance
    d apart, one of them rare, that is d / n for the values: one more failure.

    N is in proportion to S^2 only as far as the spread decides when to stop. Half the width of the
    interval is about the root of a + b, where a = z^2 S^2 / n comes from the spread and
    b = u^2 / n^2 from what n trials cannot have seen (`mean_interval`). So the correction is
    multiplied by a / (a + b).

    Args:
        trials, prior: as for `trial_mean`.
        confidence: of the interval whose width stopped the cell; in (0, 1), two-sided.
        of: (k,), another quantity of the same trials, which is 0 in trials without a flip; by
            default the values that `trial_mean` averages.
    """
    values, counts = adjusted(trials, prior)
    quantity = values if of is None else np.append(of, np.zeros(len(values) - len(of)))
    n = counts.sum()
    if n < 3:
        return 0.0
    width = prior.highest - prior.lowest
    squares = (values - values @ counts / n) ** 2
    variance = float(squares @ counts) / n
    if variance <= (1e-6 * width) ** 2:
        return 0.0
    covariance = float((quantity - quantity @ counts / n) * squares @ counts) / n
    spread = normal_quantile(confidence) ** 2 * variance / n
    unseen = (all_alike_half_width(confidence) * width / n) ** 2
    share = 1.0 - (prior.unflipped or 0.0)
    return float(spread / (spread + unseen) * share * covariance / variance / n)


def corrected_for_stopping(
    mean: Interval, shift: float, lowest: float = 0.0, highest: float = 1.0
) -> Interval:
    """Move the estimate by ``shift``, and widen the interval by it on this side.

    The shift corrects the average over many runs. The run at hand may have met as many failures as
    there are: its interval still holds what it held.

    Args:
        mean: the uncorrected mean with its interval.
        shift: as `shift_of_stopping` gives it.
        lowest, highest: the ends of the range, which nothing exceeds.
    """

    def inside(value: float) -> float:
        return float(min(max(value, lowest), highest))

    return Interval(
        inside(mean.estimate + shift),
        inside(mean.low + min(shift, 0.0)),
        inside(mean.high + max(shift, 0.0)),
    )
