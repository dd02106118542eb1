"""The table of what protections cost, for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich.table import Table

from proact.report.tables import Column, make_table
from proact.report.units import MetricUnits, decimal
from proact.text import label

_ACCURACY = MetricUnits("top-1")


def _two_digits(number: float) -> str:
    return decimal(number, 2)


class _CostColumn(NamedTuple):
    heading: str | tuple[str, ...]
    value: Callable[[Mapping[str, Any]], float | None]
    form: Callable[[float], str]


def _cost_columns(units: MetricUnits) -> tuple[_CostColumn, ...]:
    metric = "accuracy" if units.metric == "top-1" else units.name
    return (
        _CostColumn(
            ("added", "numbers"), lambda cost: cost["thresholds"] + cost["bounds"], "{}".format
        ),
        _CostColumn("bytes", lambda cost: cost["bytes"], "{:g}".format),
        _CostColumn(("% of all", "others"), lambda cost: cost["percent"], _two_digits),
        _CostColumn(
            ("clean", f"{metric} {units.unit}".rstrip()), lambda cost: cost["clean"], units.fine
        ),
        _CostColumn(("before", "hardening"), lambda cost: cost["clean_soft"], units.fine),
        _CostColumn(("time of", "a pass"), lambda cost: cost["latency"], "{:.2f}x".format),
    )


def cost_table(
    costs: Mapping[str, Mapping[str, Any]],
    encoding: str,
    units: MetricUnits = _ACCURACY,
) -> Table:
    """The cost of each protection without faults.

    Args:
        costs: by variant, the fields of a `proact.protect.Cost`. A value that was not measured for
            any variant has no column.
        encoding: the name of the encoding.
        units: of the metric.
    """
    columns = [
        column
        for column in _cost_columns(units)
        if any(column.value(cost) is not None for cost in costs.values())
    ]
    rows = []
    for variant, cost in costs.items():
        values = [column.value(cost) for column in columns]
        shown = [
            "" if value is None else column.form(value)
            for column, value in zip(columns, values, strict=True)
        ]
        rows.append((variant, *shown))
    headings: list[Column | str] = [
        Column("variant", is_text=True),
        *(Column(column.heading) for column in columns),
    ]
    return make_table(
        headings,
        rows,
        f"Cost of protection, {label(encoding)}, no faults",
        "added numbers: thresholds of activations, and bounds and replacements of parameters",
    )
