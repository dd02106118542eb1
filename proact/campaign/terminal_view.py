"""A running campaign on a terminal: a table on standard error that is gone when it ends."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.live import Live
from rich.table import Table

from proact.campaign.progress import Standing


class TerminalView:
    """A `proact.campaign.progress.View`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._live: Live | None = None

    @property
    def is_on_terminal(self) -> bool:
        return self._console.is_terminal

    def begin(self, standing: Standing) -> None:
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, standing: Standing) -> None:
        if self._live is not None:
            self._live.update(self.table(standing), refresh=True)

    def end(self, standing: Standing, error: BaseException | None) -> None:
        if self._live is not None:
            self._live.stop()

    def table(self, standing: Standing) -> Table:
        """A line a cell, those at work first, as many as the terminal has room for."""
        table = Table(caption=standing.told_left, box=None)
        for heading in ("variant", "fault", "so far", "trials", "left"):
            table.add_column(
                heading, justify="left" if heading in ("variant", "fault") else "right"
            )
        for line in standing.at_work_first(max(self._console.height - 5, 3)):
            table.add_row(
                line.variant,
                line.fault,
                standing.so_far(line),
                f"{line.cell.trials:,} of {line.in_all:,}",
                standing.left(line),
            )
        return table
