"""Stratified sampling: the allocation of trials to strata, and the mean of the whole; the
difference of two means that were estimated separately."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proact.results.statistics.interval import Interval


def optimal_allocation(
    shares: Sequence[float],
    deviations: Sequence[float],
    costs: Sequence[float],
    total: int,
    fewest: int = 0,
) -> list[int]:
    """So many trials for each stratum that the whole's mean gets the smallest error for its cost.

    n_h is in proportion to share_h deviation_h / sqrt(cost_h): J. Neyman, J. R. Stat. Soc. 97
    (1934), with costs as in W. Cochran, Sampling Techniques (1977), section 5.5.

    Args:
        shares: of the whole, positive; they need not add up to 1.
        deviations: standard deviations of a trial, at least 0.
        costs: of a trial, positive, in any unit.
        total: how many trials there are to give, as nearly as rounding up allows.
        fewest: what every stratum gets at least.
    """
    wanted = np.asarray(shares) * np.asarray(deviations) / np.sqrt(np.asarray(costs))
    if wanted.sum() <= 0.0:
        wanted = np.asarray(shares, dtype=np.float64)
    # Strata that ask for less than the fewest take it; the rest shares out what is left.
    held = np.zeros(len(wanted), dtype=bool)
    given = total * wanted / wanted.sum()
    while True:
        short = ~held & (given < fewest)
        if not short.any():
            break
        held |= short
        left = max(total - fewest * int(held.sum()), 0)
        free = wanted[~held].sum()
        given = np.where(held, fewest, left * wanted / free if free > 0 else fewest)
    return [math.ceil(n - 1e-9) for n in given]


def stratified_mean(shares: Sequence[float], means: Sequence[Interval]) -> Interval:
    """The mean of the whole from those of its strata, whose shares need not add up to 1."""
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
