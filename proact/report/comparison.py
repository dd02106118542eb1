"""Compares a campaign with one of another store, or with another one of the same store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from proact.report.analysis import Analysis, Family
from proact.report.plots import accuracy_figure
from proact.results.cells import CellResult
from proact.results.result import Result
from proact.results.statistics import Interval, independent_difference


@dataclass(frozen=True)
class ComparedCells:
    """The cells of one variant under one fault in both campaigns; ``difference`` is the one here
    minus the one there, None where a cell has no trials."""

    variant: str
    fault: str
    ber: float
    here: CellResult
    there: CellResult

    @property
    def difference(self) -> Interval | None:
        if self.here.is_missing or self.there.is_missing:
            return None
        return independent_difference(self.here.value, self.there.value)


class Comparison:
    """Two campaigns side by side: the variants and the faults that both have.

    Their trials are not paired: images, models and faults may differ. Where both campaigns met the
    same faults, the intervals of the differences are wider than they need be.

    Args:
        here: the campaign of the page.
        other: the campaign that it is compared with.
        name: of the other one, on the page.

    Raises:
        ValueError: the campaigns have different metrics, or no variant under one fault in common.
    """

    def __init__(self, here: Analysis, other: Result, name: str) -> None:
        other = other.at_confidence(here.run.confidence)
        self.name, self._here, self._there = name, here, Analysis(other)
        if other.metric != here.result.metric:
            raise ValueError(
                f"campaigns are compared in one metric; this one has {here.result.metric}, and "
                f"{name} has {other.metric}"
            )
        theirs = {(cell.variant, cell.fault): cell for cell in other.cells}
        self.cells = [
            ComparedCells(
                mine.variant, mine.fault, mine.ber, mine, theirs[mine.variant, mine.fault]
            )
            for mine in here.result.cells
            if (mine.variant, mine.fault) in theirs
        ]
        if not self.cells:
            raise ValueError(
                f"no variant has a cell under the same fault in both campaigns; here are "
                f"{', '.join(here.variants)}, and {name} has {', '.join(self._there.variants)}"
            )

    @property
    def settings(self) -> list[tuple[str, str, str]]:
        """The settings that differ: their name, here and there."""
        here, there = _settings(self._here.result), _settings(self._there.result)
        names = dict.fromkeys([*here, *there])
        pairs = [(name, here.get(name, "not set"), there.get(name, "not set")) for name in names]
        return [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]

    def figure(self, family: Family) -> Figure | None:
        """The metric over BER of both campaigns; None where a line would have one point."""
        mine = [each for each in self.cells if each.fault in family.faults]
        if len({each.ber for each in mine if each.ber > 0}) < 2:
            return None
        lines = [each.here for each in mine]
        lines += [replace(each.there, variant=f"{each.variant}, {self.name}") for each in mine]
        return accuracy_figure(lines, self._here.run.confidence, self._here.units)


def _settings(result: Result) -> Mapping[str, str]:
    """What was set, and with which versions, as text."""
    spec, notes = result.spec, result.spec.notes.get("experiment")
    values: dict[str, Any] = dict(notes) if isinstance(notes, Mapping) else {}
    values |= {
        "encoding": spec.encoding,
        "seed": spec.seed,
        "margin": spec.margin,
        "trials": spec.trials,
        "confidence": spec.confidence,
        "images": spec.images,
        "images_per_trial": spec.images_per_trial or "all",
        "data": values.get("data", spec.facts.get("data")),
    }
    for name in ("proact", "torch", "processor"):
        values[name] = result.sessions[-1].environment.get(name)
    return {name: str(value) for name, value in values.items()}
