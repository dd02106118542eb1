"""Cells as tables: pandas to compute with, rich to look at."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table

from proact.report.units import Scale, rate
from proact.results.cells import Cell, Details
from proact.results.statistics import Interval


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


class Gain(NamedTuple):
    """Of a variant over a baseline under one fault, on the same faults and images; ``ber`` is the
    fault's expected bit error rate, per exposed bit."""

    variant: str
    fault: str
    ber: float
    gain: Interval


def cells_table(cells: Sequence[Cell], confidence: float, scale: Scale) -> Table:
    """Variant x fault: the metric, its interval, mean realised flips, trials."""
    names = _names([(cell.fault, cell.ber) for cell in cells])
    interval = f"{100 * confidence:g} % interval"
    table = Table(title=f"{scale.name[0].upper()}{scale.name[1:]} under faults")
    heading = f"{scale.name} {scale.unit}".strip()
    _add_columns(table, ("variant", names.heading, heading, interval, "mean flips", "trials"))
    for variant, mine in groupby(cells, key=lambda cell: cell.variant):
        for index, cell in enumerate(mine):
            table.add_row(
                variant if index == 0 else "",
                names.of(cell.fault, cell.ber),
                "no trials" if cell.is_missing else scale.value(cell.value.estimate),
                scale.interval(cell.value),
                f"{cell.flips:,.1f}",
                f"{cell.trials:,}",
            )
        table.add_section()
    return table


def gains_table(gains: Sequence[Gain], baseline: str, confidence: float, scale: Scale) -> Table:
    """Gains over ``baseline``, variants together."""
    names = _names([(gain.fault, gain.ber) for gain in gains])
    unit = f" ({scale.unit_of_differences})" if scale.unit_of_differences else ""
    table = Table(title=f"Difference to {baseline} on the same faults{unit}")
    percent = f"{100 * confidence:g} % interval"
    _add_columns(table, ("variant", names.heading, "difference", percent))
    for variant, mine in groupby(gains, key=lambda gain: gain.variant):
        for index, each in enumerate(mine):
            table.add_row(
                variant if index == 0 else "",
                names.of(each.fault, each.ber),
                scale.difference(each.gain.estimate),
                scale.interval_of_difference(each.gain),
            )
        table.add_section()
    return table


class _Names(NamedTuple):
    """What tells the rows of a variant apart."""

    heading: str
    of: Callable[[str, float], str]


def _names(faults: Sequence[tuple[str, float]]) -> _Names:
    """Rates, where all faults are flips of any bit; else the faults."""
    if all(re.fullmatch(r"BitFlip\([^,{]*\)", fault) for fault, _ in faults):
        return _Names("BER per bit", lambda fault, ber: rate(ber))
    return _Names("fault", lambda fault, ber: fault)


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
