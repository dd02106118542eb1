"""Plans the numbers of trials and of images per trial, in advance and from a pilot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from proact.results.statistics.interval import Numbers, checked_confidence, checked_margin
from proact.text import short_repr

#: Of a share between 0 and 1: what nothing can exceed.
LARGEST_VARIANCE = 0.25
#: Fewer images a trial than this are not proposed: the share of trials that lose much, and
#: quantiles, are read from single trials.
FEWEST_IMAGES = 8


@dataclass(frozen=True)
class Components:
    """The variance of a trial's mean value on m images: between + within / m.

    Attributes:
        between: of the trials' means over all images; what no number of images makes smaller.
        within: of single images about the mean of their trial.
        mean: of the values, in [0, 1]; it states how far a trial can be off that was not seen.
    """

    between: float
    within: float
    mean: float = 0.5

    def variance(self, images: int) -> float:
        """The variance of a trial's mean value on this number of images."""
        return self.between + self.within / images


@dataclass(frozen=True)
class TrialCost:
    """Seconds of a trial on m images: trial + image * m.

    Attributes:
        trial: seconds of a trial that do not depend on the images, such as injection.
        image: seconds of each image.
    """

    trial: float
    image: float

    def seconds(self, images: int) -> float:
        """The time of a trial on this number of images, in seconds."""
        return self.trial + self.image * images


def normal_quantile(confidence: float) -> float:
    """The z of a two-sided interval: 1.96 at 0.95."""
    return float(scipy.stats.norm.ppf(0.5 + 0.5 * checked_confidence(confidence)))


def single_fault_trials(
    fault_space: int, margin: float, confidence: float = 0.95, proportion: float = 0.5
) -> int:
    """How many different single faults to try, to know the share of those that do harm.

    n = N / (1 + e^2 (N - 1) / (z^2 p (1 - p))): R. Leveugle, A. Calvez, P. Maistri and
    P. Vanhauwaert, "Statistical fault injection: quantified error and confidence", DATE 2009.

    Args:
        fault_space: N, the number of different faults (for single flips, the exposed bits).
        margin: e, half the width of the interval, in (0, 1].
        confidence: in (0, 1).
        proportion: p, a guess of the share, in (0, 1); 0.5 is the safe one.

    Raises:
        ValueError: an argument out of range.
    """
    checked_margin(margin, 1.0)
    if fault_space < 1:
        raise ValueError(f"a fault space holds one fault or more, got {fault_space}")
    if not 0.0 < proportion < 1.0:
        raise ValueError(f"a proportion lies in (0, 1), got {short_repr(proportion)}")
    z = normal_quantile(confidence)
    wanted = margin**2 * (fault_space - 1) / (z**2 * proportion * (1.0 - proportion))
    return math.ceil(fault_space / (1.0 + wanted))


def trials_for_margin(
    margin: float,
    confidence: float = 0.95,
    components: Components | None = None,
    images: int = 64,
) -> int:
    """How many trials at a bit error rate make the interval of a mean as narrow as the margin.

    With n trials of m images the error of the mean is that of two-stage sampling,
    (between + within / m) / n (W. Cochran, Sampling Techniques, 1977, section 10.3), and what has
    not been seen yet adds g^2 / n^2, with g the distance from the mean to the farther end of the
    range (`mean_interval`). So n solves z^2 (v / n + g^2 / n^2) = margin^2.

    Args:
        margin: half the width of the interval, in (0, 1].
        confidence: in (0, 1).
        components: what is known of the variances, of values in [0, 1]. By default the worst: every
            trial is all right or all wrong.
        images: the number of images of a trial, at least 1.

    Raises:
        ValueError: a margin or confidence out of range.
    """
    checked_margin(margin, 1.0)
    components = components or Components(LARGEST_VARIANCE, 0.0)
    scale = (normal_quantile(confidence) / margin) ** 2
    spread = scale * components.variance(images)
    unseen = max(components.mean, 1.0 - components.mean)
    return math.ceil(0.5 * (spread + math.sqrt(spread**2 + 4.0 * scale * unseen**2)))


def components_of(values: Numbers, clean: Numbers) -> Components:
    """Variance components of a pilot, by the analysis of variance (Cochran, section 10.6).

    Args:
        values: (trials, images), of each image under each fault pattern.
        clean: the same without faults; what they explain of ``values`` is taken out (see
            `trial_mean`).
    """
    trials, images = values.shape
    spread = clean.mean(1).var()
    covariance = np.cov(values.mean(1), clean.mean(1), bias=True)[0, 1] if trials > 1 else 0.0
    slope = min(max(covariance / spread, 0.0), 1.0) if spread > 0 else 0.0
    rest = values - slope * (clean - clean.mean())
    within = float(rest.var(1, ddof=1).mean()) if images > 1 else 0.0
    between = float(rest.mean(1).var(ddof=1)) if trials > 1 else 0.0
    return Components(max(between - within / images, 0.0), within, float(values.mean()))


def images_per_trial(
    cells: Sequence[Components],
    cost: TrialCost,
    available: int,
    margin: float,
    confidence: float = 0.95,
) -> int:
    """The number of images a trial with which all cells together reach the margin soonest.

    Without the unseen this is the classic sqrt(within / between * trial / image) (Cochran, section
    10.6) for one cell; with it, and for several, 8 and its doubles are tried out, and all images.

    Args:
        cells: the variance components of each cell, of values in [0, 1].
        cost: the seconds of a trial.
        available: the number of all images, at least 1.
        margin: half the width of the interval of each cell, in (0, 1].
        confidence: in (0, 1), two-sided.

    Returns:
        A number of images in [1, available].
    """
    candidates = [available]
    m = FEWEST_IMAGES
    while m < available:
        candidates.append(m)
        m *= 2

    def seconds(m: int) -> float:
        trials = sum(trials_for_margin(margin, confidence, cell, m) for cell in cells)
        return trials * cost.seconds(m)

    return min(sorted(candidates), key=seconds)
