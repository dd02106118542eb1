"""Figures over the faults of a family: the metric of each variant, and gains over a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proact.report.fault_axis import BY_RATE, FaultAxis, axis_of
from proact.report.style import Look, add_legend, as_text, looks, new_axes, save_figure
from proact.report.units import MetricUnits
from proact.results.cells import CellResult
from proact.results.result import Result
from proact.results.statistics import Interval

#: Drawn as a gap.
NOTHING = Interval(math.nan, math.nan, math.nan)

__all__ = ["NOTHING", "accuracy_figure", "gain_figure", "result_figure", "save_figure"]


def accuracy_figure(
    cells: Sequence[CellResult],
    confidence: float,
    units: MetricUnits | None = None,
    axis: FaultAxis = BY_RATE,
) -> Figure:
    """The metric over bit error rates or flips: one line per variant, the interval as a band.

    The cells of a variant are under faults of one family, with one level each. A line has a gap at
    a cell without trials. Cells at level 0 are left out, as the axis is logarithmic. Unfinished
    cells have hollow markers, and cells that needed no trial have crosses.
    """
    units = units or MetricUnits(cells[0].metric if cells else "top-1")
    figure, axes = new_axes(7.0, 4.5)
    variants = [name for name, _ in groupby(cells, key=lambda cell: cell.variant)]
    for variant, look in looks(variants).items():
        of_variant = [cell for cell in cells if cell.variant == variant and axis.of(cell) > 0]
        mine = sorted(of_variant, key=axis.of)
        line = {axis.of(cell): NOTHING if cell.is_missing else cell.value for cell in mine}
        markers = [index for index, cell in enumerate(mine) if not cell.needs_no_trial]
        _band(axes, units, look, variant, line, markers)
        unfinished = [cell for cell in mine if not (cell.is_finished or cell.is_missing)]
        decided = [cell for cell in mine if cell.needs_no_trial]
        for marked, marker in ((unfinished, look.marker), (decided, "x")):
            values = [(axis.of(cell), cell.value.estimate) for cell in marked]
            _mark(axes, units, look, values, marker)
    if units.is_share:
        axes.set_ylim(0, 100)
    unit = f" ({units.unit})" if units.unit else ""
    _finish(figure, axes, axis, f"{as_text(units.name)}{unit}, {100 * confidence:g} % interval")
    return figure


def result_figure(result: Result) -> Figure:
    """The metric of all cells of a result: one line per variant over the levels of the family of
    faults, or one per variant and family over bit error rates where there are several families."""
    families = {(cell.variant, cell.fault): cell.family for cell in result.spec.cells}
    names = list(dict.fromkeys(families.values()))
    cells = result.cells
    if len(names) > 1:
        variants = list(result.clean)
        named = [(cell, families[cell.variant, cell.fault]) for cell in cells]
        named.sort(key=lambda each: (variants.index(each[0].variant), names.index(each[1])))
        cells = [replace(cell, variant=f"{cell.variant}, {family}") for cell, family in named]
    return accuracy_figure(cells, result.confidence, MetricUnits.of(result.spec), axis_of(*names))


def gain_figure(
    gains: Mapping[str, Mapping[float, Interval]],
    baseline: str,
    variants: Sequence[str],
    confidence: float,
    units: MetricUnits,
    axis: FaultAxis = BY_RATE,
) -> Figure:
    """Paired gains over the baseline: one line per variant, the interval as a band.

    Args:
        gains: by variant and level on ``axis``; `NOTHING` makes a gap.
        variants: all of the campaign in their order: a variant looks as in its other figures.
    """
    figure, axes = new_axes(7.0, 3.8)
    axes.axhline(0.0, color="#000000", linewidth=0.8)
    for variant, look in looks(variants).items():
        if variant in gains:
            shown = {level: gain for level, gain in sorted(gains[variant].items()) if level > 0}
            _band(axes, units, look, variant, shown)
    unit = f"{units.unit_of_differences}, " if units.unit_of_differences else ""
    interval = f"({unit}{100 * confidence:g} % interval)"
    _finish(figure, axes, axis, f"difference to {as_text(baseline, 28)}\n{interval}")
    return figure


def _band(
    axes: Axes,
    units: MetricUnits,
    look: Look,
    variant: str,
    shown: Mapping[float, Interval],
    markers: list[int] | None = None,
) -> None:
    """A line with its band; ``markers`` are the positions with a marker, by default all."""
    axes.plot(
        list(shown),
        [units.shown(value.estimate) for value in shown.values()],
        color=look.colour,
        marker=look.marker,
        markersize=4.5,
        markevery=markers,
        linestyle=look.line,
        label=as_text(variant),
    )
    axes.fill_between(
        list(shown),
        [units.shown(value.low) for value in shown.values()],
        [units.shown(value.high) for value in shown.values()],
        color=look.colour,
        alpha=0.18,
        linewidth=0,
    )


def _mark(
    axes: Axes, units: MetricUnits, look: Look, values: Sequence[tuple[float, float]], marker: str
) -> None:
    axes.plot(
        [level for level, _ in values],
        [units.shown(estimate) for _, estimate in values],
        color=look.colour,
        marker=marker,
        markersize=4.5,
        markerfacecolor="#ffffff",
        linestyle="none",
        zorder=3,
    )


def _finish(figure: Figure, axes: Axes, axis: FaultAxis, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(axis.label)
    axes.set_ylabel(label)
    add_legend(figure, axes)
