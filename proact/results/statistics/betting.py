"""An interval with proved coverage, which needs about twice the trials."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from proact.results.statistics.interval import (
    Interval,
    Numbers,
    checked_confidence,
    checked_values,
)

#: The largest share of the capital that one bet may lose. Any number below 1 gives a valid
#: interval; on recorded trials of collapsed, half-collapsed and nearly intact networks this one was
#: within 7 % of the narrowest of 0.5, 0.75, 0.9, 0.95 and 0.99.
_BOLDEST = 0.9


def betting_interval(
    values: ArrayLike, confidence: float = 0.95, lowest: float = 0.0, highest: float = 1.0
) -> Interval:
    """The mean of independent, identically distributed values known to lie in [lowest, highest].

    The hedged betting interval of I. Waudby-Smith and A. Ramdas, "Estimating means of bounded
    random variables by betting", JRSS-B 86 (2024), arXiv 2010.09686, section 4. It covers the mean
    with at least the stated confidence at every sample size and for every distribution on the
    range, which is proved; `mean_interval` needs about half the trials for the same width.

    Args:
        values: one number a trial, at least one, in the order in which the trials were numbered
            (the interval depends on it, a little).
        confidence: in (0, 1).
        lowest, highest: the ends of the range, included.

    Raises:
        ValueError: no values, a value outside the range or not finite, a confidence out of range.
    """
    checked_confidence(confidence)
    x, _ = checked_values(values, None, lowest, highest)
    unit = (x - lowest) / (highest - lowest)
    low = _lower_limit(unit, confidence)
    high = 1.0 - _lower_limit(1.0 - unit, confidence)
    mean = float(unit.mean())

    def scaled(value: float) -> float:
        return lowest + (highest - lowest) * value

    return Interval(scaled(mean), scaled(min(low, mean)), scaled(max(high, mean)))


def _lower_limit(x: Numbers, confidence: float) -> float:
    """The smallest mean m that survives a gambler who bets that the true mean is larger.

    Her capital after all bets is K(m) = prod_i (1 + lambda_i (x_i - m)), starting at 1 with stakes
    chosen before each x_i is seen. If m is the true mean, K exceeds 2 / alpha with a chance of at
    most alpha / 2 (Markov), so every m with a larger K is given up; the mirrored game gives the
    upper limit. K falls as m grows, so bisection finds the limit.
    """
    alpha = 1.0 - confidence
    stakes = _stakes(x, alpha)

    def log_capital(m: float) -> float:
        bounded = np.minimum(stakes, _BOLDEST / m)
        return float(np.log1p(bounded * (x - m)).sum())

    given_up, kept = 0.0, 1.0
    for _ in range(50):
        middle = 0.5 * (given_up + kept)
        if log_capital(middle) >= math.log(2.0 / alpha):
            given_up = middle
        else:
            kept = middle
    return given_up


def _stakes(x: Numbers, alpha: float) -> Numbers:
    """The predictable plug-in stakes for a fixed sample size (section 4 of the paper): what would
    be best for the variance of the values seen so far, smoothed by one half-way guess."""
    n = len(x)
    seen = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(x)) / (seen + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (seen + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    stakes: Numbers = np.sqrt(2.0 * math.log(2.0 / alpha) / (n * before))
    return stakes
