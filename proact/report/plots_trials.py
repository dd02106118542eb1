"""Figures of the distribution of a metric over trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from proact.report.style import Look, as_text, looks, new_axes, widest
from proact.report.units import MetricUnits
from proact.results.statistics import Interval

_MOST_BINS = 30

#: Values, and the share of the trials with each.
Distribution = Sequence[tuple[float, float]]
Edges = NDArray[np.float64]


def bin_edges(lowest: float, highest: float, images: int | None) -> Edges:
    """The edges of a histogram's bins.

    Args:
        lowest, highest: the ends of the metric's range.
        images: the number of images, where values are shares of them. Each bin then holds the same
            number of possible shares; otherwise the histogram would show steps that the trials do
            not have. None for a metric that takes any values in its range.
    """
    if images is None:
        return np.linspace(lowest, highest, _MOST_BINS + 1)
    step = (highest - lowest) / images
    in_a_bin = math.ceil((images + 1) / _MOST_BINS)
    bins = math.ceil((images + 1) / in_a_bin)
    # From the top, where most trials are.
    top = highest + 0.5 * step
    return np.asarray(top - in_a_bin * step * np.arange(bins, -1, -1), dtype=np.float64)


def trials_figure(
    distributions: Mapping[str, Distribution],
    means: Mapping[str, Interval],
    variants: Sequence[str],
    edges: Edges,
    units: MetricUnits,
) -> Figure:
    """One mirrored histogram per variant: the width is the share of trials, the line across is the
    mean with its interval.

    It is not smoothed by a kernel, which would show trials between and beyond two modes at the
    ends of the range.

    Args:
        distributions, means: by variant; those without trials are left out.
        variants: all of the campaign in their order.
        edges: see `bin_edges`.
    """
    n = len(distributions)
    width = max(min(max(9.0 / n, 0.45), 1.1) * n + 1.5, 7.0)
    is_upright = widest(distributions) <= (width - 1.3) / n
    figure, axes = new_axes(width, 4.2 + (0.0 if is_upright else 0.7 * widest(distributions)))
    for position, (variant, values) in enumerate(distributions.items()):
        look = looks(variants)[variant]
        _histogram(axes, position, values, edges, look, units)
        _mean(axes, position, means[variant], units)
    axes.set_xticks(range(n), [as_text(variant) for variant in distributions])
    if not is_upright:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, n - 0.4)
    axes.grid(visible=False, axis="x")
    unit = f" ({units.unit})" if units.unit else ""
    axes.set_ylabel(f"{as_text(units.name)} of a trial{unit}")
    axes.set_xlabel("width: share of the trials")
    return figure


def _histogram(
    axes: Axes,
    position: int,
    values: Distribution,
    edges: Edges,
    look: Look,
    units: MetricUnits,
) -> None:
    seen, counts = np.array(values, dtype=np.float64).T
    heights, _ = np.histogram(seen, edges, weights=counts)
    widths = 0.9 * heights / heights.max()
    axes.barh(
        [units.shown(edge) for edge in 0.5 * (edges[:-1] + edges[1:])],
        widths,
        height=0.94 * units.shown(edges[1] - edges[0]),
        left=position - 0.5 * widths,
        color=look.colour,
        alpha=0.55,
        linewidth=0,
    )


def _mean(axes: Axes, position: int, mean: Interval, units: MetricUnits) -> None:
    estimate, low, high = (units.shown(end) for end in mean)
    axes.errorbar(
        [position],
        [estimate],
        yerr=[[max(estimate - low, 0.0)], [max(high - estimate, 0.0)]],
        fmt="_",
        color="#000000",
        markersize=16,
        markeredgewidth=1.8,
        capsize=3,
        elinewidth=1.2,
    )
