"""Progress bars of a campaign, by rich.progress: on a terminal and in a notebook."""

from __future__ import annotations

import importlib.util
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeRemainingColumn,
)
from rich.text import Text

from proact.interruption import INTERRUPTIONS
from proact.report.units import MetricUnits
from proact.text import printable

if TYPE_CHECKING:
    from proact.results.cells import CellState

#: Cells that are shown at the same time, unfinished ones first.
_MOST_CELLS = 12
#: The most characters of a text beside a bar: a label of a variant and one of a fault.
_MOST_LETTERS = 250
#: A notebook redraws all bars in every refresh.
_NOTEBOOK_REFRESHES_PER_SECOND = 2.0


class _TimeLeft(TimeRemainingColumn):
    """The remaining time: the task's field ``seconds_left`` where it has one. rich estimates the
    time from the speed, and forgets the speed whenever the total changes, as in campaigns."""

    max_refresh = 0.0  # a kept text would hide the first times

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("seconds_left")
        if seconds is None:
            return super().render(task)
        return Text(str(timedelta(seconds=round(seconds))), style="progress.remaining")


class _Sentence(ProgressColumn):
    """A text in one line, without markup; names in it are labels."""

    def __init__(self, form: str) -> None:
        self._form = form
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(printable(self._form.format(task=task).replace("\n", " "), _MOST_LETTERS))


def make_progress(console: Console, *, transient: bool = False) -> Progress:
    """The bars that every long command of proact shows."""
    return Progress(
        _Sentence("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        _TimeLeft(),
        _Sentence("{task.fields[note]}"),
        console=console,
        transient=transient,
        refresh_per_second=_NOTEBOOK_REFRESHES_PER_SECOND if console.is_jupyter else 10.0,
    )


class CampaignBars:
    """A progress callback of `proact.campaign.run`: one bar for all trials, and one per cell.

    A terminal clears the bars when the campaign ends. A notebook keeps them, with a sentence that
    says how the campaign ended.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._total = TaskID(0)
        self._bars: dict[int, TaskID] = {}

    def __call__(self, progress: Any) -> None:
        """Shows a `proact.campaign.CampaignProgress`."""
        is_notebook = self._console.is_jupyter
        if self._progress is None:
            self._progress = make_progress(self._console, transient=not is_notebook)
            self._total = self._progress.add_task("", total=None, note="")
        self._progress.start()
        self._update(self._progress, progress)
        if progress.is_running:
            return
        if is_notebook:
            self._progress.refresh()  # in a notebook, stop() does not
        self._progress.stop()
        self._progress, self._bars = None, {}
        if is_notebook:
            from IPython.display import display

            line = {"text/plain": printable(final_line(progress))}
            display(line, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def _update(self, bars: Progress, progress: Any) -> None:
        if not progress.cells:
            if progress.stage is not None:
                bars.update(self._total, description=progress.stage)
            return
        failed = f"{progress.failed:,} failed" if progress.failed else ""
        specs = [cell.spec for cell in progress.cells]
        stratified = {(each.variant, each.fault) for each in specs if each.stratum is not None}
        count = len(stratified) + sum(each.stratum is None for each in specs)
        cells = "cell" if count == 1 else "cells"
        bars.update(
            self._total,
            description=f"{count:,} {cells}, all trials",
            completed=progress.done,
            total=progress.total or None,
            note=failed,
            seconds_left=progress.seconds_left,
        )
        states, units = progress.cells, MetricUnits.of(progress.spec)
        unfinished_first = sorted(range(len(states)), key=lambda index: states[index].is_finished)
        shown = set(unfinished_first[:_MOST_CELLS])
        for index, cell in enumerate(states):
            if index not in shown and index not in self._bars:
                continue
            values: dict[str, Any] = {
                "completed": cell.done,
                # A finished cell may need no trial; of others the number may be unknown yet.
                "total": cell.expected if cell.expected or cell.is_finished else None,
                "note": so_far(cell, units),
                "seconds_left": (cell.expected - cell.done) * cell.seconds / progress.workers,
            }
            if index in self._bars:
                bars.update(self._bars[index], visible=index in shown, **values)
            else:
                self._bars[index] = bars.add_task(cell.spec.label, **values)


def so_far(cell: CellState, units: MetricUnits) -> str:
    """The last interim estimate, with half the width of its interval: ``94.8 ± 0.6``."""
    if cell.estimate is None:
        return ""
    estimate = cell.estimate
    return f"{units.value(estimate.estimate)} ± {units.value(estimate.half_width)}"


def final_line(progress: Any) -> str:
    """A sentence that says how a campaign ended, and where its trials are kept."""
    if progress.error is None:
        failed = f"; {progress.failed:,} failed" if progress.failed else ""
        kept = "" if progress.store is None else f", kept in {progress.store}"
        return f"Finished: {progress.done:,} trials{failed}{kept}."
    is_interrupt = isinstance(progress.error, INTERRUPTIONS)
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
