"""The mean of a whole from the means of its strata; the difference of two means that were estimated
separately."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proact.results.statistics.interval import Interval


def stratified_mean(shares: Sequence[float], means: Sequence[Interval]) -> Interval:
    """The mean of the whole from those of its strata: `weighted_sum` with their shares as weights.

    Args:
        shares: of the strata in the whole, at least 0; they need not add up to 1.
        means: of the strata, estimated from different trials.
    """
    whole = sum(shares)
    return weighted_sum([share / whole for share in shares], means)


def weighted_sum(weights: Sequence[float], means: Sequence[Interval]) -> Interval:
    """sum_h w_h m_h of means that were estimated from different trials; weights of any sign.

    The distances of the ends of the interval are those of the means' own ends, added in squares: G.
    Zou and A. Donner, Stat. Med. 27 (2008) ("MOVER"). For normal intervals this is Cochran's
    formula 5.6; it keeps lopsided ones lopsided.
    """
    weight = np.asarray(weights, dtype=np.float64)
    estimates, lows, highs = (np.array(column) for column in zip(*means, strict=True))
    estimate = math.fsum(weight * estimates)
    down = np.where(weight > 0.0, estimates - lows, highs - estimates)
    up = np.where(weight > 0.0, highs - estimates, estimates - lows)
    return Interval(
        estimate,
        estimate - math.sqrt(float(((weight * down) ** 2).sum())),
        estimate + math.sqrt(float(((weight * up) ** 2).sum())),
    )


def independent_difference(first: Interval, second: Interval) -> Interval:
    """``first`` minus ``second``, which were estimated from different trials.

    The distances of their ends are added in squares, as in `stratified_mean` (Zou and Donner 2008,
    equation 7). If the estimates rise and fall together, the interval is wider than it need be.
    """
    return weighted_sum([1.0, -1.0], [first, second])
