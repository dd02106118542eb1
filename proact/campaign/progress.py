"""Report the progress of a campaign to a callback, which may display it."""

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
    """The progress of a campaign.

    Attributes:
        cells: the state of each cell, or of each stratum of a cell.
        workers: number of units that run at the same time.
        spec: describes the run, with its metric and range; None during the preparation.
        store: the file of the rows; None if they are in memory.
        is_running: False in the last call.
        error: the exception that ended the campaign early, or None.
        stage: a description of the preparation that is running, before there are cells; then None.
    """

    cells: Sequence[CellState]
    workers: int
    spec: RunSpec | None
    store: str | Path | None = None
    is_running: bool = True
    error: BaseException | None = None
    stage: str | None = None

    @property
    def done(self) -> int:
        """The number of stored trials among the expected ones."""
        return sum(cell.done for cell in self.cells)

    @property
    def total(self) -> int:
        """The number of trials that the campaign is expected to need in total."""
        return sum(cell.expected for cell in self.cells)

    @property
    def failed(self) -> int:
        """The number of failed trials."""
        return sum(cell.failed for cell in self.cells)

    @property
    def stored(self) -> int:
        """The number of trials in the store, including those that no result uses yet."""
        return sum(cell.stored.count(TRIALS) for cell in self.cells)

    @property
    def seconds_left(self) -> float:
        """The estimated time until the last trial ends, in seconds."""
        left = sum((cell.expected - cell.done) * cell.seconds for cell in self.cells)
        return left / self.workers


#: Receives the progress: at each stage of the preparation, before the first trial, after every
#: stored unit, and once at the end.
ProgressCallback: TypeAlias = Callable[[CampaignProgress], object]


def callback_for(progress: ProgressCallback | bool | None) -> ProgressCallback | None:
    """Return the callback for the option ``progress`` of `proact.campaign.RunOptions`, or None."""
    if progress is None or isinstance(progress, bool):
        return None if progress is False else renderer().progress_bars(always=progress is True)
    return progress


class Announcer:
    """Calls a progress callback in the preparation, after each unit and at the end of the trials.

    Args:
        callback: receives the progress; None disables the calls.
        progress: returns the current progress for (whether the campaign runs, the error that ended
            it, the stage of the preparation).
    """

    def __init__(
        self,
        callback: ProgressCallback | None,
        progress: Callable[[bool, BaseException | None, str | None], CampaignProgress],
    ) -> None:
        self._callback, self._progress = callback, progress

    def update(self) -> None:
        """Report the current progress, before the first unit and after each stored one."""
        if self._callback is not None:
            self._callback(self._progress(True, None, None))

    def stage(self, name: str) -> None:
        """Report a stage of the preparation."""
        if self._callback is not None:
            self._callback(self._progress(True, None, name))

    def end(self, error: BaseException | None) -> None:
        """Called once, with the error that ended the run."""
        if self._callback is None:
            return
        # The error may be the callback's own, and must not be hidden by another one.
        with nullcontext() if error is None else suppress(BaseException):
            self._callback(self._progress(False, error, None))
