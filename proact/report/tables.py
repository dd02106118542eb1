"""Cells as tables: pandas to compute with, rich to look at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import pandas as pd
from rich.table import Table

from proact.campaign.cells import Cell


def cells_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a cell; accuracies and shares in [0, 1]."""
    frame: pd.DataFrame = pd.DataFrame(
        {
            "variant": cell.variant,
            "fault": cell.fault,
            "ber": cell.ber,
            "accuracy": cell.accuracy.estimate,
            "low": cell.accuracy.low,
            "high": cell.accuracy.high,
            "sdc": cell.sdc.estimate,
            "sdc_low": cell.sdc.low,
            "sdc_high": cell.sdc.high,
            "clean": cell.clean,
            "trials": cell.trials,
            "flips": cell.flips,
            "non_finite": cell.non_finite,
        }
        for cell in cells
    )
    return frame


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
