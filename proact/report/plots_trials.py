"""How a metric is distributed over trials: most faults do nothing, some destroy the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from proact.campaign.statistics import Interval
from proact.report.scale import Scale
from proact.report.style import Look, as_text, looks, new_axes

_MOST_BINS = 30

#: Values and how many trials had each.
Distribution = Sequence[tuple[float, int]]
Edges = NDArray[np.float64]


def bin_edges(lowest: float, highest: float, images: int | None) -> Edges:
    """Of a histogram of trials that were each judged on so many images, None for many: a bin for
    each value that a share of few images can have, else equal ones."""
    if images is None or images >= _MOST_BINS:
        return np.linspace(lowest, highest, _MOST_BINS + 1)
    step = (highest - lowest) / images
    return np.linspace(lowest - 0.5 * step, highest + 0.5 * step, images + 2)


def trials_figure(
    distributions: Mapping[str, Distribution],
    means: Mapping[str, Interval],
    variants: Sequence[str],
    edges: Edges,
    scale: Scale,
) -> Figure:
    """One mirrored histogram a variant: the width is the share of trials, the line across is the
    mean with its interval.

    No kernel smooths it: with two humps at the ends of the range, a kernel would draw trials
    between and beyond, where there are none.

    Args:
        distributions, means: by variant; those without trials are left out.
        variants: all of the campaign in their order.
        edges: of the histogram's bins; see `bin_edges`.
    """
    figure, axes = new_axes(max(1.1 * len(distributions) + 1.5, 7.0), 4.2)
    for position, (variant, values) in enumerate(distributions.items()):
        look = looks(variants)[variant]
        _histogram(axes, position, values, edges, look, scale)
        _mean(axes, position, means[variant], scale)
    axes.set_xticks(range(len(distributions)), [as_text(variant) for variant in distributions])
    axes.tick_params(axis="x", rotation=0 if len(distributions) <= 6 else 45)
    axes.set_xlim(-0.6, max(len(distributions), 1) - 0.4)
    axes.grid(visible=False, axis="x")
    unit = f" ({scale.unit})" if scale.unit else ""
    axes.set_ylabel(f"{scale.name} of a trial{unit}")
    axes.set_xlabel("width: share of the trials")
    return figure


def _histogram(
    axes: Axes,
    position: int,
    values: Distribution,
    edges: Edges,
    look: Look,
    scale: Scale,
) -> None:
    seen, counts = np.array(values, dtype=np.float64).T
    heights, _ = np.histogram(seen, edges, weights=counts)
    widths = 0.9 * heights / heights.max()
    axes.barh(
        [scale.shown(edge) for edge in 0.5 * (edges[:-1] + edges[1:])],
        widths,
        height=0.94 * scale.shown(edges[1] - edges[0]),
        left=position - 0.5 * widths,
        color=look.colour,
        alpha=0.55,
        linewidth=0,
    )


def _mean(axes: Axes, position: int, mean: Interval, scale: Scale) -> None:
    estimate, low, high = (scale.shown(end) for end in mean)
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
