"""A run as its store tells it: no network, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from proact.results.cells import (
    Cell,
    Details,
    Source,
    details,
    difference,
    summarise,
    trials_of,
)
from proact.results.interval_set import Ranges
from proact.results.run_log import Run, RunCell, Session, logged
from proact.results.statistics import Interval, StoppingRule, stratified_mean
from proact.results.store import CellKey, Store
from proact.results.stratum import Stratum, stratum, sweep_confidence

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Progress:
    """How far a cell is.

    Attributes:
        trials: what is said of it is about the trials below this number.
        is_finished: whether it has what was asked for.
    """

    trials: int
    is_finished: bool


@dataclass(frozen=True)
class StoredRun:
    """A run that a store holds, finished or not.

    Attributes:
        number: in the store.
        run: what was asked for, and what is known without a trial.
        sessions: each time that somebody worked on it.
    """

    number: int
    run: Run
    sessions: Sequence[Session]
    _store: Store = field(repr=False)

    @cached_property
    def progress(self) -> Mapping[CellKey, Progress]:
        """How far each cell is. Where a cell stops follows from its rows, so that a run that was
        interrupted can tell which of its cells are done."""
        with self._store.again() as store:
            return {cell.key: _progress(store, self.run, cell) for cell in self.run.cells}

    @property
    def is_finished(self) -> bool:
        return all(cell.is_finished for cell in self.progress.values())

    @cached_property
    def sources(self) -> Mapping[tuple[str, str], Source]:
        """Where the rows of each (variant, fault) are; variants together, in the order in which
        they were given."""
        return {
            (cell.variant, cell.fault): self.run.source(
                cell, self.progress[cell.key].trials, self.progress[cell.key].is_finished
            )
            for variant in self.run.variants
            for cell in self.run.cells
            if cell.variant == variant.name
        }

    @cached_property
    def cells(self) -> list[Cell]:
        """One a variant and fault. One without trials holds what is known without any; see
        `progress` for whether that is what was asked for."""
        run = self.run
        with self._store.again() as store:
            return [
                summarise(store, source, run.metric, run.confidence)
                for source in self.sources.values()
            ]

    def details(
        self, limit: float = 0.05, quantiles: Sequence[float] = (0.05, 0.5)
    ) -> dict[tuple[str, str], Details]:
        """See `proact.campaign.Result.details`; of the cells that have trials."""
        with self._store.again() as store:
            return {
                names: details(store, source, self.run.confidence, limit, quantiles)
                for names, source in self.sources.items()
                if source.trials
            }

    def difference(self, variant: str, baseline: str) -> dict[str, Interval]:
        """For each fault, the mean gain of ``variant`` over ``baseline`` with its paired interval;
        see `proact.campaign.Result.difference`. Of the faults that both have trials of."""
        for name in (variant, baseline):
            if name not in (known := [each.name for each in self.run.variants]):
                raise ValueError(f"a variant is one of {', '.join(known)}; got {name!r}")
        gains = {}
        with self._store.again() as store:
            for name, fault in self.sources:
                mine = self.sources[name, fault]
                other = self.sources[baseline, fault]
                if name == variant and min(mine.trials, other.trials):
                    gains[fault] = difference(store, mine, other, self.run.confidence)
        return gains

    def values(self, variant: str, fault: str) -> list[tuple[float, int]]:
        """The metric's values over a cell's trials, and how many trials had each."""
        source = self.sources[variant, fault]
        with self._store.again() as store:
            return [
                (float(value), int(count))
                for value, count in store.grouped(source.key, ["value"], source.trials)
            ]

    def strata(self) -> tuple[list[Stratum], Interval]:
        """Of a sweep: its parts in their order, and the mean of the whole."""
        run, parts = self.run, []
        confidence = sweep_confidence(run.margin, run.confidence)
        with self._store.again() as store:
            for cell in run.cells:
                assert cell.part is not None
                assert cell.share is not None
                known, most = run.known(cell), self.progress[cell.key].trials
                trials = trials_of(store, cell.key, most, known)
                parts.append(
                    stratum(cell.part, cell.share, trials, known, confidence, run.is_better_higher)
                )
        shares = [part.share for part in parts]
        return parts, stratified_mean(shares, [part.value for part in parts])

    def failures(self) -> dict[tuple[str, str], list[tuple[int, str]]]:
        """(trial, reason) of the trials that could not be run, of the cells that have some."""
        with self._store.again() as store:
            found = {
                names: store.failures(source.key, source.trials)
                for names, source in self.sources.items()
            }
        return {names: failed for names, failed in found.items() if failed}

    def to_pandas(self) -> pd.DataFrame:
        """One row a cell, as `proact.campaign.Result.to_pandas`."""
        from proact.report.tables import cells_frame

        return cells_frame(self.cells)


def stored_runs(store: str | Path | Store) -> list[StoredRun]:
    """The runs that a store holds, in the order in which they were last worked on.

    Nothing is written, and no network is needed.

    Raises:
        ProactError: no such file, or one that is no proact store or another version's.
    """
    # A campaign closes its store in the end: what it left is opened again.
    opening = store.again() if isinstance(store, Store) else Store(store, read_only=True)
    with opening as opened:
        return [StoredRun(*found, opened) for found in logged(opened)]


def rows_of_older_versions(store: str | Path | Store) -> int:
    """How many trials a store holds that no run explains: those of a store of version 2."""
    opened = store.again() if isinstance(store, Store) else Store(store, read_only=True)
    with opened as reading:
        return 0 if logged(reading) else reading.number("SELECT count(*) FROM row")


def _progress(store: Store, run: Run, cell: RunCell) -> Progress:
    if cell.trials is not None:
        return Progress(cell.trials, True)
    stored = Ranges(store.runs(cell.key)).upto()
    if run.rule is not None:
        return _replayed(store, run, cell, run.rule, stored)
    if run.kind == "campaign":
        assert run.trials is not None
        return Progress(min(stored, run.trials), stored >= run.trials)
    return Progress(stored, False)  # how a sweep's trials are shared out follows from all of them


def _replayed(store: Store, run: Run, cell: RunCell, rule: StoppingRule, stored: int) -> Progress:
    """The looks that the rule took, or would have taken, at the rows that there are."""
    known = run.known(cell)
    target = rule.first(known)
    if target == 0:
        return Progress(0, True)
    while target <= stored:
        following = rule.next(trials_of(store, cell.key, target, known), known)
        if following is None:
            return Progress(target, True)
        target = following
    return Progress(stored, False)
