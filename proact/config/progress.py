"""Telling those who wait which stage an experiment is at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_Answer = TypeVar("_Answer")


class Stage:
    """What a stage's work calls: with (steps done, steps in all), or with a line of text."""

    def __init__(self, progress: Progress | None, bar: TaskID) -> None:
        self._progress, self._bar = progress, bar

    def steps(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.update(self._bar, completed=done, total=total)

    def line(self, text: str) -> None:
        if self._progress is not None:
            self._progress.update(self._bar, note=text)


class Stages:
    """A progress bar for the stage at hand; a line a stage where nobody watches a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """A line of its own, as it is."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def run(self, title: str, work: Callable[[Stage], _Answer]) -> _Answer:
        """What ``work`` returns."""
        if not self._console.is_terminal:
            self.say(title)
            return work(Stage(None, TaskID(0)))
        with Progress(
            TextColumn("{task.description:<34}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        ) as progress:
            return work(Stage(progress, progress.add_task(title, total=None, note="")))


def on_standard_error() -> Stages:
    """For programs whose standard output is for results."""
    return Stages(Console(stderr=True))
