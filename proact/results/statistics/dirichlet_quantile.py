"""Quantiles of a Dirichlet mean: what random weights make of fixed values."""

from __future__ import annotations

import math

import numpy as np
import scipy

from proact.results.statistics.interval import Numbers

_ROOT_STEPS = 200
# Distance of the search from the bottom value and the mean, as a share of the way between them.
_MARGIN = 1e-9


def dirichlet_mean_quantile(values: Numbers, weights: Numbers, level: float) -> float:
    """The ``level`` quantile, in (0, 1/2), of sum_i W_i v_i, where W has the Dirichlet distribution
    with parameters ``weights``.

    W is a vector of independent Gamma(weights_i) variables G over its sum, so that the mean is at
    most t exactly where sum_i G_i (v_i - t) <= 0. The probability of that comes from the saddle
    point approximation of R. Lugannani and S. Rice, Adv. Appl. Prob. 12 (1980), which the tests
    hold against binomial tails (two values make a beta distribution) and against random draws; what
    they leave of the range is off by a quarter of a percent at most.
    """
    bottom = float(values.min())
    # In units of the mean's height above the bottom value: values that differ only in their last
    # digits would otherwise coincide with the ends of the search.
    heights = values - bottom
    unit = float(heights @ weights / weights.sum())
    if unit <= 0.0:
        return bottom
    scaled = heights / unit

    def excess(t: float) -> float:
        return _below_zero(scaled - t, weights) - level

    start, end = _MARGIN, 1.0 - _MARGIN
    if excess(start) > 0.0:  # nearly all of the probability lies in the bottom value
        return bottom
    root = scipy.optimize.brentq(excess, start, end, xtol=1e-3 * _MARGIN, rtol=1e-12)
    return bottom + unit * float(root)


def _below_zero(a: Numbers, weights: Numbers) -> float:
    """P(sum_i G_i a_i <= 0), given that the sum's mean is positive and some a_i are negative.

    The cumulant generating function is K(s) = -sum_i w_i log(1 - s a_i). Its saddle point K'(s) = 0
    lies between 1 / min(a) and 0; in u = s min(a) that is (0, 1), on which
    K'(s) = sum_i w_i a_i / (1 + u b_i) with b = a / |min(a)| falls from a positive value to minus
    infinity.
    """
    b = a / -a.min()
    low, high, u = 0.0, 1.0, 0.5
    for _ in range(_ROOT_STEPS):
        share = b / (1.0 + u * b)
        slope = weights @ share
        low, high = (u, high) if slope > 0.0 else (low, u)
        following = u + slope / (weights @ (share * share))  # Newton
        if not low < following < high:
            following = 0.5 * (low + high)
        if abs(following - u) <= 1e-13:
            break
        u = following
    log_likelihood_ratio = float(weights @ np.log1p(u * b))
    curvature = math.sqrt(float(weights @ (b / (1.0 + u * b)) ** 2))
    w = -math.sqrt(max(2.0 * log_likelihood_ratio, 0.0))
    v = -u * curvature
    if w > -1e-4:  # the formula's two reciprocals cancel at the mean
        return 0.5
    density = math.exp(-0.5 * w * w) / math.sqrt(2.0 * math.pi)
    return float(scipy.special.ndtr(w)) + density * (1.0 / w - 1.0 / v)
