"""Announces the progress of a campaign through a callback; showing it is the callback's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from proact.limits import TRIALS
from proact.results.cells import CellState
from proact.results.rendering import renderer
from proact.results.run_log import RunSpec


@dataclass(frozen=True)
class CampaignProgress:
    """How far a campaign is.

    Attributes:
        cells: the state of each cell.
        workers: number of trials that run at the same time.
        spec: of the run: its metric and range.
        store: where the rows are kept; None: in memory.
        is_running: False in the last announcement.
        error: what ended the campaign early, if anything.
    """

    cells: Sequence[CellState]
    workers: int
    spec: RunSpec
    store: str | Path | None = None
    is_running: bool = True
    error: BaseException | None = None

    @property
    def done(self) -> int:
        """Number of stored trials among the expected ones."""
        return sum(cell.done for cell in self.cells)

    @property
    def total(self) -> int:
        """Number of trials that the campaign will have had, as now expected."""
        return sum(cell.expected for cell in self.cells)

    @property
    def failed(self) -> int:
        """Number of failed trials."""
        return sum(cell.failed for cell in self.cells)

    @property
    def stored(self) -> int:
        """Number of trials in the store, with those that no result uses yet."""
        return sum(cell.stored.count(TRIALS) for cell in self.cells)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds until the last trial."""
        left = sum((cell.expected - cell.done) * cell.seconds for cell in self.cells)
        return left / self.workers


#: Receives the progress: before the first trial, after every stored unit, and once at the end.
ProgressCallback: TypeAlias = Callable[[CampaignProgress], object]


def callback_for(progress: ProgressCallback | bool | None) -> ProgressCallback | None:
    """The callback that an option ``progress`` stands for: progress bars unless it is a function;
    see `proact.campaign.RunOptions`."""
    if progress is None or isinstance(progress, bool):
        return None if progress is False else renderer().progress_bars(always=progress is True)
    return progress


class Announcer:
    """Calls a progress callback.

    Args:
        callback: None announces nothing.
        progress: gives the progress as it is now, for (is it running, the error that ended it).
    """

    def __init__(
        self,
        callback: ProgressCallback | None,
        progress: Callable[[bool, BaseException | None], CampaignProgress],
    ) -> None:
        self._callback, self._progress = callback, progress

    def update(self) -> None:
        """Called before the first trial, and whenever a unit was stored."""
        if self._callback is not None:
            self._callback(self._progress(True, None))

    def end(self, error: BaseException | None) -> None:
        """Called once, with the error that ended the run."""
        if self._callback is None:
            return
        # The error may be the callback's own, and must not be hidden by another one.
        with nullcontext() if error is None else suppress(BaseException):
            self._callback(self._progress(False, error))
