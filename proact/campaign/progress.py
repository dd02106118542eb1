"""Telling those who wait how far a campaign is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from proact.campaign.coordinator import OpenCell

_REFRESH_SECONDS = 0.5

#: None: a table in a notebook, or where standard error is a terminal, and silence elsewhere. False:
#: silence. A function is called with (trials done, trials in all as now expected).
Progress = Callable[[int, int], object] | bool | None


@dataclass(eq=False)
class Line:
    """What is shown of one cell."""

    variant: str
    fault: str
    cell: OpenCell
    estimate: float | None = None
    half_width: float | None = None
    expected: int = 0

    @property
    def done(self) -> int:
        """How many trials there are of those that it will have had."""
        return min(self.cell.trials, self.in_all)

    @property
    def in_all(self) -> int:
        """How many trials the cell will have had, as now expected."""
        return self.cell.target if self.cell.finished else max(self.expected, self.cell.trials)

    @property
    def percent(self) -> float:
        """How much of it is done; all of a cell that needs no trials."""
        return 100.0 * self.done / self.in_all if self.in_all else 100.0 * self.cell.finished

    @property
    def seconds_left(self) -> float:
        """By one pair of hands."""
        return (self.in_all - self.done) * self.cell.seconds


@dataclass(frozen=True)
class Standing:
    """Where the cells of a campaign stand.

    Attributes:
        lines: one a cell.
        hands: how many work on them.
        scale: what people read is the cells' values times this: 100 for shares.
    """

    lines: Sequence[Line]
    hands: int
    scale: float

    @property
    def done(self) -> int:
        return sum(line.done for line in self.lines)

    @property
    def in_all(self) -> int:
        """How many trials there will have been, as now expected."""
        return sum(line.in_all for line in self.lines)

    @property
    def failed(self) -> int:
        return sum(line.cell.failed for line in self.lines)

    @property
    def stored(self) -> int:
        """Trials of these cells in the store, with those that no result is about yet."""
        return sum(line.cell.stored.count(1 << 32) for line in self.lines)

    @property
    def told_left(self) -> str:
        """What is left and what failed, in words."""
        left = sum(line.seconds_left for line in self.lines) / self.hands
        failed = f"; {self.failed} trials could not be run" if self.failed else ""
        return f"about {_duration(left)} left{failed}"

    def at_work_first(self, room: int) -> list[Line]:
        """As many lines as there is room for."""
        return sorted(self.lines, key=lambda line: line.cell.finished)[:room]

    def so_far(self, line: Line) -> str:
        """Estimate and half of the interval's width, as far as anybody has looked."""
        value = "" if line.estimate is None else f"{self.scale * line.estimate:.1f}"
        width = "" if line.half_width is None else f" ± {self.scale * line.half_width:.1f}"
        return value + width

    def left(self, line: Line) -> str:
        """The time that a line's trials take if all hands turn to it."""
        return "done" if line.cell.finished else _duration(line.seconds_left / self.hands)


class View(Protocol):
    """Shows a campaign to people. A sweep begins and ends its view once a round."""

    def begin(self, standing: Standing) -> None:
        """Called before the first trial."""

    def show(self, standing: Standing) -> None:
        """Called while trials are run, not too often."""

    def end(self, standing: Standing, error: BaseException | None) -> None:
        """Called after the last trial, or the error that makes it the last."""


def view_for(progress: Progress, store: Path | None) -> View | None:
    """What ``progress`` asks for here; ``store`` is where the rows are kept, if they are."""
    if progress is False or callable(progress):
        return None
    from proact.campaign.notebook_view import NotebookView, is_in_notebook
    from proact.campaign.terminal_view import TerminalView

    if is_in_notebook():
        return NotebookView(store)
    view = TerminalView()
    return view if progress or view.is_on_terminal else None


class Watch:
    """Tells a function of everything that is stored, and a view twice a second. A context
    manager."""

    def __init__(
        self,
        standing: Standing,
        progress: Progress,
        view: View | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._standing, self._view, self._clock = standing, view, clock
        self._tell = progress if callable(progress) else None
        self._shown = 0.0

    def __enter__(self) -> Watch:
        if self._view is not None:
            self._view.begin(self._standing)
            self._shown = self._clock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._view is not None:
            self._view.end(self._standing, error)

    def update(self) -> None:
        """Called whenever something was stored."""
        if self._tell is not None:
            self._tell(self._standing.done, self._standing.in_all)
        if self._view is None:
            return
        now = self._clock()
        if now - self._shown >= _REFRESH_SECONDS:
            self._shown = now
            self._view.show(self._standing)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
