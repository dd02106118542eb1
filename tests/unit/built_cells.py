"""Cells whose summaries can be worked out by hand."""

from __future__ import annotations

from proact.results.cells import CellResult
from proact.results.statistics import Interval


def cell(
    ber: float, value: tuple[float, float, float], clean: float = 0.9, variant: str = "relu"
) -> CellResult:
    return CellResult(
        variant,
        f"BitFlip({ber})",
        ber,
        "top-1",
        Interval(*value),
        None,
        clean,
        10,
        0,
        3.0,
        0.0,
        0.0,
    )


#: The second loses at most 4.9 points, the third may lose 6.
LINE = [
    cell(1e-6, (0.9, 0.88, 0.91)),
    cell(1e-5, (0.89, 0.851, 0.9)),
    cell(1e-4, (0.88, 0.84, 0.9)),
    cell(1e-3, (0.9, 0.89, 0.91)),
]
