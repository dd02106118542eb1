"""Renders results for notebooks: HTML without scripts.

Every output contains its own style, whose class names begin with ``proact-``, and loads nothing.
Colours are those of the notebook where it defines them, else those of the system.
"""

from __future__ import annotations

from itertools import groupby

from markupsafe import Markup

from proact.report.analysis import mark
from proact.report.fault_axis import axis_of
from proact.report.html import inline_svg, rendered
from proact.report.units import MetricUnits, decimal, percent
from proact.results.result import Result


def campaign_html(result: Result) -> str:
    """The table of the cells, and a figure of the metric over the levels of the faults (bit error
    rates, or numbers of flips) where at least two have trials."""
    cells = result.cells
    axis = axis_of(*dict.fromkeys(cell.family for cell in result.spec.cells))
    levels = {axis.of(cell) for cell in cells if not cell.is_missing}
    return rendered(
        "notebook_result.html",
        variants=[(name, list(mine)) for name, mine in groupby(cells, lambda cell: cell.variant)],
        units=MetricUnits.of(result.spec),
        decimal=decimal,
        in_percent=percent,
        mark=mark,
        confidence=result.confidence,
        has_cells_without_trials=any(not cell.trials for cell in cells),
        axis=axis,
        figure=_figure(result) if sum(level > 0 for level in levels) > 1 else None,
    )


def _figure(result: Result) -> Markup:
    from proact.report.plots import result_figure

    return inline_svg(result_figure(result))


def sweep_html(result: Result) -> str:
    """The table of the strata with a bar for each loss; those that lose most come first."""
    strata = result.strata
    rows = sorted(zip(strata, result.cells, strict=True), key=lambda row: -row[0].loss.estimate)
    (clean,) = result.clean.values()
    return rendered(
        "notebook_sweep.html",
        kind=result.spec.kind,
        whole=result.whole,
        clean=clean,
        confidence=result.confidence,
        rows=rows,
        largest=max(stratum.loss.estimate for stratum in strata),
        units=MetricUnits.of(result.spec),
        decimal=decimal,
        in_percent=percent,
        has_cells_without_trials=any(not cell.trials for cell in result.cells),
    )
