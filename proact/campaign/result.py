"""What a campaign found, read from its stored rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from proact.campaign.cells import Cell, paired_difference, summarise
from proact.campaign.statistics import Interval
from proact.campaign.store import Row
from proact.faults import Fault

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


@dataclass(frozen=True)
class Result:
    """The finished cells of a campaign.

    Attributes:
        rows: the trials of each (variant, fault), ordered by trial.
        bers: the expected bit error rate of each (variant, fault), per exposed bit.
        clean: accuracy without faults of each variant, in [0, 1], in the encoding.
        confidence: of every interval here, two-sided.
    """

    rows: Mapping[tuple[str, Fault], Sequence[Row]]
    bers: Mapping[tuple[str, Fault], float]
    clean: Mapping[str, float]
    confidence: float

    @cached_property
    def cells(self) -> list[Cell]:
        """One a variant and fault, variants together, in the order they were given."""
        return [
            summarise(
                variant,
                str(fault),
                self.bers[variant, fault],
                self.clean[variant],
                rows,
                self.confidence,
            )
            for (variant, fault), rows in self.rows.items()
        ]

    def difference(self, variant: str, baseline: str) -> dict[Fault, Interval]:
        """For each fault, the mean gain in accuracy of ``variant`` over ``baseline`` on the same
        faults and images, in [-1, 1], with its paired interval."""
        for name in (variant, baseline):
            if name not in self.clean:
                raise ValueError(f"a variant is one of {', '.join(self.clean)}; got {name!r}")
        faults = [fault for name, fault in self.rows if name == variant]
        return {
            fault: paired_difference(
                self.rows[variant, fault], self.rows[baseline, fault], self.confidence
            )
            for fault in faults
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row a cell; accuracies and shares in [0, 1]; ``low``, ``high``: the interval."""
        from proact.report.tables import cells_frame

        return cells_frame(self.cells)

    def table(self) -> Table:
        """A table to print with rich: accuracy and interval in percent."""
        from proact.report.tables import cells_table

        return cells_table(self.cells, self.confidence)

    def plot(self, path: str | Path) -> None:
        """Accuracy over BER with interval bands; the file's ending (.png, .svg, .pdf) decides the
        format."""
        from proact.report.plots import accuracy_over_ber

        accuracy_over_ber(self.cells, Path(path), self.confidence)
