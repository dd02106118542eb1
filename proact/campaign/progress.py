"""Telling those who wait how far a campaign is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from proact.campaign.coordinator import OpenCell

_REFRESH_SECONDS = 0.5

#: None: a table where standard error is a terminal, and silence elsewhere. False: silence. A
#: function is called with (trials done, trials in all as now expected).
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
    def in_all(self) -> int:
        """How many trials the cell will have had, as now expected."""
        return self.cell.target if self.cell.finished else max(self.expected, self.cell.trials)

    @property
    def seconds_left(self) -> float:
        return (self.in_all - min(self.cell.trials, self.in_all)) * self.cell.seconds


class Watch:
    """Shows the lines of a campaign while it runs. A context manager."""

    def __init__(self, lines: Sequence[Line], hands: int, progress: Progress, scale: float) -> None:
        self._lines, self._hands, self._scale = lines, hands, scale
        self._tell = progress if callable(progress) and not isinstance(progress, bool) else None
        self._console = Console(file=sys.stderr)
        is_shown = self._console.is_terminal if progress is None else progress is True
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if is_shown else None
        )
        self._shown = 0.0

    def __enter__(self) -> Watch:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, traceback)

    def update(self) -> None:
        """Called whenever something was stored."""
        if self._tell is not None:
            done = sum(min(line.cell.trials, line.in_all) for line in self._lines)
            self._tell(done, sum(line.in_all for line in self._lines))
        now = time.monotonic()
        if self._live is not None and now - self._shown > _REFRESH_SECONDS:
            self._shown = now
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """A line a cell, those at work first, as many as the terminal has room for."""
        left = sum(line.seconds_left for line in self._lines) / self._hands
        failed = sum(line.cell.failed for line in self._lines)
        caption = f"about {_duration(left)} left"
        if failed:
            caption += f"; {failed} trials could not be run"
        table = Table(caption=caption, box=None)
        for heading in ("variant", "fault", "so far", "trials", "left"):
            table.add_column(
                heading, justify="left" if heading in ("variant", "fault") else "right"
            )
        room = max(self._console.height - 5, 3)
        for line in sorted(self._lines, key=lambda line: line.cell.finished)[:room]:
            value = "" if line.estimate is None else f"{self._scale * line.estimate:.1f}"
            if line.half_width is not None:
                value += f" ± {self._scale * line.half_width:.1f}"
            table.add_row(
                line.variant,
                line.fault,
                value,
                f"{line.cell.trials:,} of {line.in_all:,}",
                "done" if line.cell.finished else _duration(line.seconds_left / self._hands),
            )
        return table


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
