"""Intervals for means of bounded quantities, for proportions and for quantiles."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from proact.results.statistics.dirichlet_quantile import dirichlet_mean_quantile
from proact.results.statistics.interval import (
    Interval,
    Numbers,
    checked_confidence,
    checked_values,
)
from proact.text import short_repr

#: The weight, in trials, of the unobserved value at the end of the range.
_UNSEEN = 0.7


def mean_interval(
    values: ArrayLike,
    confidence: float = 0.95,
    lowest: float = 0.0,
    highest: float = 1.0,
    counts: ArrayLike | None = None,
) -> Interval:
    """The mean of independent, identically distributed values known to lie in [lowest, highest].

    The interval of N. Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on
    the mean of a nonnegative variable", Math. Methods Stat. 14 (2005), and E. Learned-Miller and
    P. Thomas, arXiv 1905.06208, slightly tightened: the n values and one more at the end of the
    range get random weights, uniform on the simplex; the lower end is the alpha / 2 quantile of the
    weighted mean with that value at ``lowest``, the upper end the 1 - alpha / 2 quantile with it at
    ``highest``.

    For many spread values it tends to the normal interval, skewness included. The added value keeps
    room for what so few trials can miss. Counted as a whole trial it makes the exact interval of
    Clopper and Pearson for zeros and ones, and leaves 3.7 / n of the range at 95 % where all n are
    alike, although there only one side can be wrong. It counts as 0.7, which leaves 3 / n (the
    "rule of three"). Its coverage is measured (docs/statistics.md); that of `betting_interval` is
    proved.

    Args:
        values: one number a trial, at least one; their order does not matter.
        confidence: in (0, 1), two-sided.
        lowest, highest: the ends of the range, included.
        counts: how often each value was seen; once each by default.

    Raises:
        ValueError: no values, one outside the range or not finite, a confidence out of range.
    """
    checked_confidence(confidence)
    x, k = checked_values(values, counts, lowest, highest)
    x, k = _merged(x, k)
    level = 0.5 * (1.0 - confidence)
    weights = np.append(k, _UNSEEN)
    low = dirichlet_mean_quantile(np.append(x, lowest), weights, level)
    high = -dirichlet_mean_quantile(np.append(-x, -highest), weights, level)
    mean = min(max(float(x @ k / k.sum()), lowest), highest)
    return Interval(mean, min(low, mean), max(high, mean))


def _merged(x: Numbers, k: Numbers) -> tuple[Numbers, Numbers]:
    """Each value once: shares of a few images take few values, and time goes with their number."""
    unique, position = np.unique(x, return_inverse=True)
    return unique, np.bincount(position, weights=k).astype(np.float64)


def proportion_interval(
    hits: int, trials: int, confidence: float = 0.95, missing: int = 0
) -> Interval:
    """The share of trials of some kind, by the exact interval of C. Clopper and E. Pearson,
    Biometrika 26 (1934). No hit among n gives [0, 3.7 / n] at 95 %, and not [0, 0].

    Args:
        hits: in [0, trials].
        trials: independent ones. None at all gives [0, 1] around 0.
        confidence: in (0, 1).
        missing: the number of further trials, at least 0, which may be of this kind or not: the
            lower end counts none of them as hits, the upper end all.

    Raises:
        ValueError: numbers that do not fit, a confidence out of range.
    """
    checked_confidence(confidence)
    if not 0 <= hits <= trials:
        raise ValueError(f"hits lie in [0, trials], got {hits} of {trials}")
    if trials == 0:
        return Interval(0.0, 0.0, 1.0)
    ends = np.array([float(hits), float(hits + missing)])
    low, high = proportion_ends(ends, trials + missing, confidence)
    return Interval(hits / trials, float(low[0]), float(high[1]))


def proportion_ends(hits: Numbers, trials: int, confidence: float) -> tuple[Numbers, Numbers]:
    """The ends of `proportion_interval` for several numbers of hits, (k,) each: the quantiles of
    beta distributions."""
    level = 0.5 * (1.0 - confidence)
    beta = scipy.stats.beta
    low = np.where(hits > 0, beta.ppf(level, np.maximum(hits, 1), trials - hits + 1), 0.0)
    high = np.where(hits < trials, beta.isf(level, hits + 1, np.maximum(trials - hits, 1)), 1.0)
    return low, high


def quantile_interval(
    values: ArrayLike,
    level: float,
    confidence: float = 0.95,
    lowest: float = 0.0,
    highest: float = 1.0,
    counts: ArrayLike | None = None,
) -> Interval:
    """The ``level`` quantile of a distribution on [lowest, highest], between order statistics.

    The number of values at or below the quantile is binomial, whatever the distribution: H. David
    and H. Nagaraja, Order Statistics (2003), section 7.1. An end that no order statistic can hold
    with this confidence is the end of the range.

    Args:
        values: one number a trial, at least one.
        level: in (0, 1); 0.05 is the accuracy that one trial in twenty stays below.
        confidence: in (0, 1), two-sided.
        lowest, highest, counts: as for `mean_interval`.

    Raises:
        ValueError: as `mean_interval`, and a level out of range.
    """
    checked_confidence(confidence)
    if not 0.0 < level < 1.0:
        raise ValueError(f"a quantile's level lies in (0, 1), got {short_repr(level)}")
    x, k = checked_values(values, counts, lowest, highest)
    x, k = _merged(x, k)
    upto = np.cumsum(k)
    n = int(upto[-1])

    def order_statistic(rank: int) -> float:
        """Number ``rank`` of the n, from 1."""
        if rank < 1:
            return lowest
        return highest if rank > n else float(x[np.searchsorted(upto, rank)])

    alpha = 1.0 - confidence
    # P(order statistic r > quantile) = P(fewer than r at or below it) = P(Binomial(n, level) < r).
    below = int(scipy.stats.binom.ppf(alpha / 2, n, level))
    above = int(scipy.stats.binom.ppf(1 - alpha / 2, n, level)) + 1
    return Interval(
        order_statistic(max(math.ceil(level * n), 1)),
        order_statistic(below),
        order_statistic(above),
    )


def all_alike_half_width(confidence: float) -> float:
    """Half of the width of `mean_interval`, times n, on a range of 1, where all n values are alike:
    the least that it can be. From the gamma distribution that the beta one tends to for large n."""
    return 0.5 * float(scipy.stats.gamma.isf(0.5 * (1.0 - confidence), _UNSEEN))
