"""Cells as tables: pandas to compute with, rich to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table

from proact.campaign.cells import Cell, Details
from proact.campaign.statistics import Interval


def cells_frame(cells: Sequence[Cell], details: Sequence[Details] | None = None) -> pd.DataFrame:
    """One row a cell; accuracies and shares in [0, 1]."""
    frame: pd.DataFrame = pd.DataFrame(
        {**_summary(cell), **(_details(details[index]) if details is not None else {})}
        for index, cell in enumerate(cells)
    )
    return frame


def _summary(cell: Cell) -> dict[str, Any]:
    sdc = cell.sdc or Interval(math.nan, math.nan, math.nan)
    return {
        "variant": cell.variant,
        "fault": cell.fault,
        "ber": cell.ber,
        _name_of(cell): cell.value.estimate,
        "low": cell.value.low,
        "high": cell.value.high,
        "sdc": sdc.estimate,
        "sdc_low": sdc.low,
        "sdc_high": sdc.high,
        "clean": cell.clean,
        "trials": cell.trials,
        "failed": cell.failed,
        "flips": cell.flips,
        "non_finite": cell.non_finite,
    }


def _details(details: Details) -> dict[str, Any]:
    intervals = {
        **{name: share for name, share in details.shares.items() if name != "non_finite"},
        "critical": details.critical,
        **{f"quantile_{level:g}": value for level, value in details.quantiles.items()},
    }
    columns: dict[str, Any] = {}
    for name, interval in intervals.items():
        columns[name], columns[f"{name}_low"], columns[f"{name}_high"] = interval
    return {**columns, "loss": details.loss}


def _name_of(cell: Cell) -> str:
    return "accuracy" if cell.metric == "top-1" else cell.metric


#: Metrics that are shares of images, and shown in percent.
_SHARES = {"top-1": "accuracy", "top-5": "top-5 accuracy", "sdc": "sdc"}


def cells_table(cells: Sequence[Cell], confidence: float) -> Table:
    """Variant x BER: the metric (shares in percent), its interval, mean realised flips, trials."""
    metric = cells[0].metric if cells else "top-1"
    name, is_share = _SHARES.get(metric, metric), metric in _SHARES
    interval = f"{100 * confidence:g} % interval"
    headings = ("BER per bit", f"{name}{' %' * is_share}", interval, "mean flips", "trials")
    table = Table(title=f"{name[0].upper()}{name[1:]} under bit flips")
    _add_columns(table, ("variant", *headings))

    def shown(value: float) -> str:
        return f"{100 * value:.1f}" if is_share else f"{value:.4g}"

    for variant, mine in groupby(cells, key=lambda cell: cell.variant):
        for index, cell in enumerate(mine):
            table.add_row(
                variant if index == 0 else "",
                f"{cell.ber:g}",
                shown(cell.value.estimate),
                f"{shown(cell.value.low)} to {shown(cell.value.high)}",
                f"{cell.flips:,.1f}",
                str(cell.trials),
            )
        table.add_section()
    return table


def gains_table(
    gains: Sequence[tuple[str, float, Interval]], baseline: str, confidence: float
) -> Table:
    """(variant, BER, gain) with variants together: gains over ``baseline`` in points."""
    table = Table(title=f"Gain over {baseline}, same faults (points of accuracy)")
    percent = f"{100 * confidence:g} % interval"
    _add_columns(table, ("variant", "BER per bit", "gain", percent))
    for variant, mine in groupby(gains, key=lambda gain: gain[0]):
        for index, (_, ber, gain) in enumerate(mine):
            table.add_row(
                variant if index == 0 else "",
                f"{ber:g}",
                f"{100 * gain.estimate:+.1f}",
                f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}",
            )
        table.add_section()
    return table


def cost_table(costs: Mapping[str, Mapping[str, Any]], encoding: str) -> Table:
    """What each protection costs without faults.

    Args:
        costs: by variant, the fields of a `proact.protect.Cost`. What nobody measured has no
            column.
    """
    table = Table(
        title=f"Cost of protection, {encoding}, no faults",
        caption="added numbers: thresholds of activations and bounds of parameters",
    )
    columns = [
        column
        for column in _COST_COLUMNS
        if any(column.value(cost) is not None for cost in costs.values())
    ]
    _add_columns(table, ("variant", *(column.heading for column in columns)))
    for variant, cost in costs.items():
        table.add_row(variant, *(column.shown(cost) for column in columns))
    return table


class _CostColumn(NamedTuple):
    heading: str
    value: Callable[[Mapping[str, Any]], float | None]
    form: str

    def shown(self, cost: Mapping[str, Any]) -> str:
        value = self.value(cost)
        return "" if value is None else self.form.format(value)


_COST_COLUMNS = (
    _CostColumn("added\nnumbers", lambda cost: cost["thresholds"] + cost["bounds"], "{}"),
    _CostColumn("bytes", lambda cost: cost["bytes"], "{:g}"),
    _CostColumn("% of all\nothers", lambda cost: cost["percent"], "{:.2f}"),
    _CostColumn("clean\naccuracy %", lambda cost: _percent(cost["clean"]), "{:.2f}"),
    _CostColumn("before\nhardening", lambda cost: _percent(cost["clean_soft"]), "{:.2f}"),
    _CostColumn("time of\na pass", lambda cost: cost["latency"], "{:.2f}x"),
)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _add_columns(table: Table, headings: Sequence[str]) -> None:
    for heading in headings:
        left = heading == "variant"
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
