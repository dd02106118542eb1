"""What a campaign found, read from its stored rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from proact.campaign.autotune import Settled
from proact.faults import Fault
from proact.results.cells import Cell, Details, Source, details, difference, summarise
from proact.results.statistics import Interval
from proact.results.store import Row, Store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

    from proact.report.units import Scale


@dataclass(frozen=True)
class Result:
    """The cells of a campaign.

    It holds no rows but reads them from the store when they are asked for.

    Attributes:
        clean: the metric without faults of each variant, in the encoding, on all images.
        confidence: of every interval here, two-sided.
        metric: what the cells' values are.
        settled: how trials were run, and the measurements by which that was chosen.
        run: its number in the store; see `proact.campaign.stored_runs`.
    """

    clean: Mapping[str, float]
    confidence: float
    metric: str
    settled: Settled
    run: int
    _sources: Mapping[tuple[str, Fault], Source] = field(repr=False)
    _store: Store = field(repr=False)

    @property
    def images_per_trial(self) -> int | None:
        """How many images a trial was judged on; None: on all."""
        return self.settled.policy.images

    @property
    def bers(self) -> Mapping[tuple[str, Fault], float]:
        """The expected bit error rate of each (variant, fault), per exposed bit."""
        return {key: source.ber for key, source in self._sources.items()}

    @property
    def rows(self) -> Mapping[tuple[str, Fault], Sequence[Row]]:
        """The trials of each (variant, fault) by number, as many as the result is about; read one
        cell at a time."""
        return _Rows(self)

    @cached_property
    def cells(self) -> list[Cell]:
        """One a variant and fault, variants together, in the order they were given."""
        with self._opened() as store:
            return [
                summarise(store, source, self.metric, self.confidence)
                for source in self._sources.values()
            ]

    def details(
        self, limit: float = 0.05, quantiles: Sequence[float] = (0.05, 0.5)
    ) -> dict[tuple[str, Fault], Details]:
        """What else the rows say of each (variant, fault).

        Args:
            limit: a trial that loses more of the metric than this, against the same network without
                faults on the same images, is critical.
            quantiles: levels in (0, 1) of a trial's value. On few images a trial these hold the
                luck
                of the draw as well: run with ``images_per_trial="all"`` for those of fault
                    patterns.
        """
        with self._opened() as store:
            return {
                key: details(store, source, self.confidence, limit, quantiles)
                for key, source in self._sources.items()
            }

    def difference(self, variant: str, baseline: str) -> dict[Fault, Interval]:
        """For each fault, the mean gain of ``variant`` over ``baseline`` on the same faults and
        images, in the metric's unit, with its paired interval; of the trials that both have."""
        for name in (variant, baseline):
            if name not in self.clean:
                raise ValueError(f"a variant is one of {', '.join(self.clean)}; got {name!r}")
        faults = [fault for name, fault in self._sources if name == variant]
        with self._opened() as store:
            return {
                fault: difference(
                    store,
                    self._sources[variant, fault],
                    self._sources[baseline, fault],
                    self.confidence,
                )
                for fault in faults
            }

    def failures(self) -> dict[tuple[str, Fault], list[tuple[int, str]]]:
        """(trial, reason) of the trials that could not be run, of the cells that have some."""
        with self._opened() as store:
            found = {
                key: store.failures(source.key, source.trials)
                for key, source in self._sources.items()
            }
        return {key: failed for key, failed in found.items() if failed}

    def to_pandas(self, with_details: bool = False) -> pd.DataFrame:
        """One row a cell; accuracies and shares in [0, 1]; ``low``, ``high``: the interval.

        Args:
            with_details: adds the columns of `details`, with its default limit and levels.
        """
        from proact.report.tables import cells_frame

        return cells_frame(self.cells, list(self.details().values()) if with_details else None)

    @property
    def scale(self) -> Scale:
        """How people read the metric."""
        from proact.report.units import Scale

        known, better = next(
            (source.known, source.is_better_higher) for source in self._sources.values()
        )
        return Scale.of(self.metric, known.lowest, known.highest, better)

    def report(self, folder: str | Path, baseline: str | None = None) -> Path:
        """Writes the page ``report.html`` and its figures and tables into ``folder``.

        Args:
            baseline: the variant that the others are compared with; by default the first.

        Returns:
            Where the page is; it needs no network and no other file.

        Raises:
            ValueError: no such variant. ProactError: the folder cannot be written.
        """
        from proact.report.writer import write_report

        return write_report(self._store, Path(folder), baseline=baseline, run=self.run)["html"]

    def table(self) -> Table:
        """A table to print with rich: accuracy and interval in percent."""
        from proact.report.tables import cells_table

        return cells_table(self.cells, self.confidence, self.scale)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Accuracy over BER with interval bands.

        Args:
            path: where the figure is written too; the ending (.png, .svg, .pdf) decides the format.

        Returns:
            A figure of matplotlib, which shows itself as the last expression of a notebook's cell.
        """
        from proact.report.plots import accuracy_figure, save_figure

        figure = accuracy_figure(self.cells, self.confidence, self.scale)
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    def _repr_html_(self) -> str:
        from proact.report.notebook import result_html

        return result_html(self.cells, self.confidence, self.scale)

    def _opened(self) -> AbstractContextManager[Store]:
        return self._store.again()


class _Rows(Mapping[tuple[str, Fault], Sequence[Row]]):
    def __init__(self, result: Result) -> None:
        self._result = result

    def __getitem__(self, key: tuple[str, Fault]) -> Sequence[Row]:
        source = self._result._sources[key]
        with self._result._opened() as store:
            return store.rows(source.key, source.trials)

    def __iter__(self) -> Iterator[tuple[str, Fault]]:
        return iter(self._result._sources)

    def __len__(self) -> int:
        return len(self._result._sources)
