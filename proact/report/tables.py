"""Cells as tables: pandas to compute with, rich to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

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


def cells_table(cells: Sequence[Cell], confidence: float) -> Table:
    """Variant x BER: accuracy in percent with its interval, mean realised flips, trials."""
    percent = f"{100 * confidence:g} % interval"
    table = Table(title="Accuracy under bit flips")
    for heading in ("variant", "BER per bit", "accuracy %", percent, "mean flips", "trials"):
        table.add_column(
            heading, justify="left" if heading == "variant" else "right", overflow="fold"
        )
    for variant, mine in groupby(cells, key=lambda cell: cell.variant):
        for index, cell in enumerate(mine):
            table.add_row(
                variant if index == 0 else "",
                f"{cell.ber:g}",
                f"{100 * cell.accuracy.estimate:.1f}",
                f"{100 * cell.accuracy.low:.1f} to {100 * cell.accuracy.high:.1f}",
                f"{cell.flips:,.1f}",
                str(cell.trials),
            )
        table.add_section()
    return table
