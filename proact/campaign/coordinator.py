"""Hands out units until every cell has what it needs, and stores what comes back.

The coordinator alone writes to the store, and reads from it what decides how a cell goes on. A
cell's next number of trials depends on its stored rows in the order of their numbers, so that the
outcome is the same whoever ran them, in whatever order, with whatever interruptions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field

from proact.campaign.executors import Crew, NotBegun
from proact.campaign.jobs import Done, Unit
from proact.ops.plan import TRIALS
from proact.results.interval_set import Ranges
from proact.results.store import CellKey, Store

#: A unit is meant to take so long: rows are stored when it is done, and lost when it is killed.
_UNIT_SECONDS = 0.25
_MOST_TRIALS = 512
#: As long as nobody knows how long they take.
_UNTIMED_TRIALS = 8
#: A trial that fails so often is recorded as failed.
ATTEMPTS = 3
#: Cells of which nearly all trials fail end here, where only a margin would.
_MANY_FAILURES = 20

#: How many trials a cell is to have, by what it has: the same number means that it has enough.
NextTarget = Callable[["OpenCell"], int]


@dataclass(eq=False)
class OpenCell:
    """One variant under one fault, while it is worked on.

    Attributes:
        variant, fault: their positions in the job.
        key: their numbers in the store.
        target: so many trials it needs before it is looked at again.
        stored: the trials that are in the store, failed ones included.
        finished: whether it has enough.
        seconds: of a trial that ran, at first as expected, then a moving mean; 0 where unknown.
    """

    variant: int
    fault: int
    key: CellKey
    stored: Ranges
    target: int = 0
    finished: bool = False
    failed: int = 0
    seconds: float = 0.0
    issued: Ranges = field(default_factory=Ranges)

    @property
    def trials(self) -> int:
        """How many trials there are without a gap."""
        return self.stored.upto()

    def unit(self, end: int, hands: int) -> Unit:
        """The next unit, which ends at ``end`` at the latest and leaves some for other hands."""
        longest = int(_UNIT_SECONDS / self.seconds) if self.seconds else _UNTIMED_TRIALS
        share = math.ceil((end - self.issued.upto()) / hands)
        first, last = self.issued.gap(max(1, min(longest, share, _MOST_TRIALS)))
        return Unit(self.variant, self.fault, first, max(min(last, end), first + 1))


class Coordinator:
    """Runs the cells of a campaign.

    Args:
        store: where the rows go.
        cells: what there is to run.
        crew: who runs it.
        watch: is told after every unit, and after every look.
        runs_ahead: whether hands that would be idle go beyond a cell's target: useful where nobody
            knows yet how many trials it takes.
    """

    def __init__(
        self,
        store: Store,
        cells: Sequence[OpenCell],
        crew: Crew,
        watch: Callable[[], None],
        runs_ahead: bool,
    ) -> None:
        self._store, self.cells, self._crew, self._watch = store, cells, crew, watch
        self._runs_ahead = runs_ahead
        self._at_work: dict[Future[Done], Unit] = {}
        self._again: list[Unit] = []
        self._attempts: Counter[tuple[int, int, int]] = Counter()
        self._by_position = {(cell.variant, cell.fault): cell for cell in cells}

    def work(self, next_target: NextTarget) -> None:
        """Runs until every cell has enough trials. What a crew with idle hands is given beyond that
        is stored too, and belongs to no result yet."""
        for cell in self.cells:
            cell.finished = False
            self._look(cell, next_target)
        while True:
            while len(self._at_work) < self._crew.places and (unit := self._next_unit()):
                self._at_work[self._crew.submit(unit)] = unit
            if all(cell.finished for cell in self.cells):
                return
            done, _ = wait(self._at_work, return_when=FIRST_COMPLETED)
            for future in done:
                cell = self._take(future)
                self._look(cell, next_target)
                self._watch()

    def keep_what_is_done(self) -> None:
        """Stores units that are done and were not taken yet, and calls off the others."""
        for future in list(self._at_work):
            if not future.cancel() and future.done():
                self._take(future)
        self._at_work.clear()
        for cell in self.cells:
            # What was called off is to be had again, by whoever goes on with these cells.
            cell.issued = cell.stored.copy()

    def _next_unit(self) -> Unit | None:
        """Units that failed first; then the cell that is the furthest behind, so that all become
        useful together. Hands that would be idle run ahead of a cell's target."""
        active = [cell for cell in self.cells if not cell.finished]
        while self._again:
            unit = self._again.pop()
            if not self._by_position[unit.variant, unit.fault].finished:
                return unit
        needed = [cell for cell in active if cell.issued.upto() < cell.target]
        if needed:
            cell = min(needed, key=lambda cell: cell.issued.upto())
            end = cell.target
        elif active and self._runs_ahead and len(self._at_work) < self._crew.hands:
            cell = min(active, key=lambda cell: cell.issued.upto())
            end = min(cell.issued.upto() + _MOST_TRIALS, TRIALS)
        else:
            return None
        unit = cell.unit(end, self._crew.hands)
        cell.issued.add(unit.first, unit.end)
        return unit

    def _take(self, future: Future[Done]) -> OpenCell:
        """Stores what a unit brought; what it did not goes back into the queue."""
        unit = self._at_work.pop(future)
        cell = self._by_position[unit.variant, unit.fault]
        try:
            done = future.result()
        except CancelledError:
            done = Done(
                (), [(t, "the executor called it off") for t in range(unit.first, unit.end)]
            )
        except NotBegun:
            self._again.append(unit)
            return cell
        except Exception as error:
            # The worker died, and with it the executor's word of how.
            reason = f"the worker was lost: {type(error).__name__}: {error}"
            done = Done((), [(trial, reason) for trial in range(unit.first, unit.end)])
        if done.rows:
            self._store.add(cell.key, done.rows)
            for row in done.rows:
                cell.stored.add(row.trial, row.trial + 1)
            ran = [row.seconds for row in done.rows if row.seconds]
            if ran:
                seconds = sum(ran) / len(ran)
                cell.seconds = 0.7 * cell.seconds + 0.3 * seconds if cell.seconds else seconds
        for trial, reason in done.failed:
            self._failed(cell, trial, reason)
        return cell

    def _failed(self, cell: OpenCell, trial: int, reason: str) -> None:
        subject = (cell.variant, cell.fault, trial)
        self._attempts[subject] += 1
        if self._attempts[subject] < ATTEMPTS:
            # Alone, so that it does not take others with it again.
            self._again.append(Unit(cell.variant, cell.fault, trial, trial + 1))
            return
        self._store.fail(cell.key, trial, ATTEMPTS, reason)
        del self._attempts[subject]
        cell.failed += 1
        cell.stored.add(trial, trial + 1)

    def _look(self, cell: OpenCell, next_target: NextTarget) -> None:
        """Asks for a new target as often as the stored trials reach the one there is."""
        while not cell.finished and cell.trials >= cell.target:
            target = next_target(cell)
            is_hopeless = self._is_hopeless(cell)
            cell.finished = target == cell.target or is_hopeless
            cell.target = target if not cell.finished else cell.target

    def _is_hopeless(self, cell: OpenCell) -> bool:
        if cell.failed < _MANY_FAILURES:
            return False
        # What was run ahead, or stored by an earlier run, decides nothing.
        failed = len(self._store.failures(cell.key, cell.target))
        return failed >= _MANY_FAILURES and 2 * failed > cell.target
