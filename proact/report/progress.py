"""Progress bars of a campaign, by rich.progress: on a terminal and in a notebook."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from proact.report.units import MetricUnits

if TYPE_CHECKING:
    from proact.results.cells import CellState

#: Cells that are shown at the same time, unfinished ones first.
_MOST_CELLS = 12


def make_progress(console: Console, *, transient: bool = False) -> Progress:
    """The bars that every long command of proact shows."""
    return Progress(
        TextColumn("{task.description:<34}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=transient,
    )


class CampaignBars:
    """A progress callback of `proact.campaign.run`: one bar for all trials, and one per cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._total = TaskID(0)
        self._bars: dict[int, TaskID] = {}

    def __call__(self, progress: Any) -> None:
        """Shows a `proact.campaign.CampaignProgress`."""
        if self._progress is None:
            self._progress = make_progress(self._console, transient=not self._console.is_jupyter)
            self._progress.start()
            self._total = self._progress.add_task("all trials", total=None, note="")
        self._update(self._progress, progress)
        if not progress.is_running:
            self._progress.stop()
            self._progress, self._bars = None, {}
            if self._console.is_jupyter:
                self._console.print(final_line(progress), markup=False, highlight=False)

    def _update(self, bars: Progress, progress: Any) -> None:
        failed = f"{progress.failed:,} failed" if progress.failed else ""
        bars.update(self._total, completed=progress.done, total=progress.total or None, note=failed)
        cells = progress.cells
        unfinished_first = sorted(range(len(cells)), key=lambda index: cells[index].is_finished)
        shown = set(unfinished_first[:_MOST_CELLS])
        for index, cell in enumerate(cells):
            if index in shown and index not in self._bars:
                description = f"{cell.spec.variant} {cell.spec.fault}"
                self._bars[index] = bars.add_task(description, total=None, note="")
            if index in self._bars:
                bars.update(
                    self._bars[index],
                    completed=cell.done,
                    total=cell.expected or None,
                    note=so_far(cell, MetricUnits.of(progress.spec)),
                    visible=index in shown,
                )


def so_far(cell: CellState, units: MetricUnits) -> str:
    """The last interim estimate, with half the width of its interval: ``94.8 ± 0.6``."""
    if cell.estimate is None:
        return ""
    estimate = cell.estimate
    return f"{units.value(estimate.estimate)} ± {units.value(estimate.half_width)}"


def final_line(progress: Any) -> str:
    """A sentence that says how a campaign ended."""
    if progress.error is None:
        failed = f"; {progress.failed:,} failed" if progress.failed else ""
        return f"Finished: {progress.done:,} trials{failed}."
    is_interrupt = isinstance(progress.error, KeyboardInterrupt)
    ended = "Interrupted" if is_interrupt else f"Stopped by {type(progress.error).__name__}"
    if progress.store is None:
        return f"{ended}: the rows were in memory and are lost; store=... keeps them."
    return (
        f"{ended}: {progress.stored:,} trials are kept in {progress.store}; the same call "
        "continues from there."
    )


def campaign_bars(always: bool) -> CampaignBars | None:
    """Bars in a notebook and where standard error is a terminal; elsewhere only if ``always``.

    A notebook shows bars through ipywidgets; without it there are none.
    """
    console = Console(file=None if _is_in_notebook() else sys.stderr)
    if console.is_jupyter:
        return CampaignBars(console) if importlib.util.find_spec("ipywidgets") else None
    return CampaignBars(console) if always or console.is_terminal else None


def _is_in_notebook() -> bool:
    """Whether this is a kernel of IPython. A program that did not import IPython is not."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
