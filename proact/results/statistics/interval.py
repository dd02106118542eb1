"""The type of an interval, and the checks that all estimators share."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from proact.text import short_repr

Numbers = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its confidence interval, both ends included."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of what lies between the ends; the estimate need not be in their middle."""
        return 0.5 * (self.high - self.low)


def checked_confidence(confidence: float) -> float:
    """Return ``confidence``, or raise ValueError unless it lies in (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence lies in (0, 1), got {short_repr(confidence)}")
    return confidence


def checked_margin(margin: float, most: float = math.inf) -> float:
    """Return ``margin``, or raise ValueError unless it is finite, above 0 and at most ``most``,
    the width of the metric's range."""
    if not 0.0 < margin < math.inf:
        raise ValueError(f"a margin is a finite number above 0, got {short_repr(margin)}")
    if margin > most:
        raise ValueError(
            f"a margin is at most {most:g}, the width of the metric's range, got "
            f"{short_repr(margin)}"
        )
    return margin


def checked_values(
    values: ArrayLike, counts: ArrayLike | None, lowest: float, highest: float
) -> tuple[Numbers, Numbers]:
    """Values with the number of times that each was seen; ValueError for none, for one outside
    [lowest, highest], and for counts that do not fit."""
    x = np.asarray(values, dtype=np.float64).ravel()
    k = np.ones(len(x)) if counts is None else np.asarray(counts, dtype=np.float64).ravel()
    if not len(x):
        raise ValueError("an interval needs at least one value, got none")
    if not (lowest < highest and np.all(x >= lowest) and np.all(x <= highest)):
        raise ValueError(
            f"values must lie in [{lowest:g}, {highest:g}], got {x.min():g} to {x.max():g}"
        )
    if k.shape != x.shape or not np.all(k > 0) or not np.all(np.isfinite(k)):
        raise ValueError("counts are positive and as many as the values")
    return x, k
