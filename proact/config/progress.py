"""Show the stages of a long command: progress bars on a terminal, lines of text elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

from proact.campaign import CampaignProgress
from proact.report.progress import make_progress
from proact.text import printable

_T = TypeVar("_T")


class Stage:
    """Receives the progress of one stage."""

    def __init__(self, progress: Progress | None, bar: TaskID) -> None:
        self._progress, self._bar = progress, bar

    def steps(self, done: int, total: int) -> None:
        """Report the number of finished steps and the total."""
        if self._progress is not None:
            self._progress.update(self._bar, completed=done, total=total)

    def line(self, text: str) -> None:
        """Show a line of text about the current step."""
        if self._progress is not None:
            self._progress.update(self._bar, note=text)

    def campaign(self, progress: CampaignProgress) -> None:
        """Report the progress of a campaign; use it as the campaign's callback."""
        self.steps(progress.done, progress.total)


class Stages:
    """Shows stages one after the other on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Print a line without formatting; names in it are labels."""
        self._console.print(Text(printable(text)), soft_wrap=True, highlight=False)

    def run(self, title: str, work: Callable[[Stage], _T]) -> _T:
        """Run a stage and return the result of ``work``."""
        if not self._console.is_terminal:
            self.say(title)
            return work(Stage(None, TaskID(0)))
        with make_progress(self._console) as progress:
            return work(Stage(progress, progress.add_task(title, total=None, note="")))


def on_standard_error() -> Stages:
    """Make stages on standard error, for programs that print results on standard output."""
    return Stages(Console(stderr=True))
