"""Distribute work units until every cell has enough trials, and store their results.

Only the coordinator writes to the store. The next number of trials of a cell depends on its stored
rows in the order of their trial numbers. The outcome therefore does not depend on workers, on the
order in which units end, or on interruptions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from proact.campaign.executors import is_lost_worker
from proact.campaign.jobs import UnitResult, WorkUnit
from proact.campaign.shared_trials import SharedTrials
from proact.campaign.trial_groups import SEVERAL_TRIALS
from proact.campaign.worker_pool import LostWorkerError, NotStartedError, WorkerPool
from proact.errors import ProactError
from proact.interruption import DeferredSignals
from proact.limits import TRIALS
from proact.results.cells import CellSpec, CellState
from proact.results.store import Row, Store

#: The intended duration of a unit. Its rows are stored when it ends, and lost if it is killed.
_UNIT_SECONDS = 0.25
_MOST_TRIALS = 512
#: Trials per unit while their duration is unknown.
_UNTIMED_TRIALS = 8
#: A trial is recorded as failed after this many workers died while they ran it.
ATTEMPTS = 3
#: The campaign ends after this many workers in a row died between trials.
_MOST_LOST_WORKERS = 20

#: Returns the numbers of trials that a group of cells needs; their current targets mean that it has
#: enough.
NextTargets = Callable[[Sequence[CellState]], Sequence[int]]


class Coordinator:
    """Runs the cells of a campaign.

    Args:
        store: receives the rows.
        cells: the state of each cell, or of each stratum of a cell, by its position (variant,
            fault) in the job.
        group_of: names the group of a cell: its cells are analysed together, when each of them has
            its trials.
        pool: runs the units.
        announce: called after every unit and any interim analysis that follows it.
        shared: finds rows that need no run, because another cell has them.
        runs_ahead: whether idle workers run trials beyond a cell's target. This helps if the final
            number of trials is not known yet.
        trials_at_once: the number of trials that a worker runs in one forward pass.
    """

    def __init__(
        self,
        store: Store,
        cells: Mapping[tuple[int, int], CellState],
        group_of: Callable[[CellSpec], object],
        pool: WorkerPool,
        announce: Callable[[], None],
        shared: SharedTrials,
        runs_ahead: bool,
        trials_at_once: int = 1,
    ) -> None:
        self._store, self._by_position, self._pool = store, cells, pool
        self._trials_at_once = trials_at_once
        #: The share of the last trials of a cell that needed a forward pass.
        self._needing: dict[CellState, float] = {}
        self._announce, self._shared, self._runs_ahead = announce, shared, runs_ahead
        self._position = {cell: position for position, cell in cells.items()}
        self.cells: Sequence[CellState] = list(cells.values())
        groups: dict[object, list[CellState]] = {}
        for cell in self.cells:
            groups.setdefault(group_of(cell.spec), []).append(cell)
        self._group = {cell: mine for mine in groups.values() for cell in mine}
        self._running: dict[Future[UnitResult], WorkUnit] = {}
        #: Units whose worker was lost while it ran no trial of theirs.
        self._again: list[WorkUnit] = []
        #: Units of one trial whose worker was lost during this trial. They run alone, at the end.
        self._suspects: list[WorkUnit] = []
        self._attempts: Counter[tuple[int, int, int]] = Counter()
        #: Workers in a row that died between trials, with no result in the meantime.
        self._lost_workers = 0

    def work(self, next_targets: NextTargets) -> None:
        """Run until every cell has enough trials.

        Trials that idle workers ran beyond a target are stored too. No result uses them yet.
        """
        for cell in self.cells:
            cell.is_finished = False
            self._look(cell, next_targets)
        while True:
            self._start_units(next_targets)
            if all(cell.is_finished for cell in self.cells):
                return
            if not self._running:
                raise ProactError(
                    "no trial is left to run, and yet cells lack trials: the store was changed by "
                    "another program"
                )
            for future in self._pool.wait(self._running):
                with DeferredSignals():  # an interrupt must not lose a unit that has ended
                    cell = self._take(future)
                self._look(cell, next_targets)
                self._announce()

    def keep_what_is_done(self) -> None:
        """Store the units that have ended with a result, and cancel the others."""
        for future in list(self._running):
            if not future.cancel() and future.done() and not future.exception():
                self._take(future)
        self._running.clear()
        for cell in self.cells:
            # Cancelled trials are available to the next coordinator of these cells.
            cell.issued = cell.stored.copy()

    def _start_units(self, next_targets: NextTargets) -> None:
        """Submit units until the queue of the workers is full or no work can start now."""
        while len(self._running) < self._pool.queue_depth and (unit := self._next_unit()):
            cell = self._by_position[unit.variant, unit.fault]
            is_repeated = unit.first < cell.issued.upto()
            if not is_repeated and (rows := self._shared.rows(cell, unit)):
                self._keep(cell, rows)
                self._look(cell, next_targets)
                self._announce()
                continue
            cell.issued.add(unit.first, unit.end)
            self._running[self._pool.submit(unit)] = unit

    def _next_unit(self) -> WorkUnit | None:
        """Choose the next unit, or None if no work can start now.

        Lost units come first, then the cell with the fewest issued trials, so that all cells
        advance together. A cell that can share trials with a higher rate comes after that. When no
        cell needs further trials, those that ended their worker run again, one after the other and
        alone. Idle workers run ahead of a cell's target if there is no such trial.
        """
        active = [cell for cell in self.cells if not cell.is_finished]
        if any(self._attempts[self._subject(unit)] for unit in self._running.values()):
            return None
        if (unit := self._last_unfinished(self._again)) is not None:
            return unit
        needed = [cell for cell in active if cell.issued.upto() < cell.target]
        if needed:
            cell = min(
                needed, key=lambda cell: (self._shared.may_find_more(cell), cell.issued.upto())
            )
            end = cell.target
        elif self._suspects and not self._running:
            return self._last_unfinished(self._suspects)
        elif self._suspects:
            return None
        elif active and self._runs_ahead and len(self._running) < self._pool.workers:
            cell = min(active, key=lambda cell: cell.issued.upto() / max(cell.target, 1))
            end = min(cell.issued.upto() + _MOST_TRIALS, TRIALS)
        else:
            return None
        return self._unit(cell, end)

    def _last_unfinished(self, units: list[WorkUnit]) -> WorkUnit | None:
        """Take the last unit of an unfinished cell out of ``units``, and drop those of others."""
        while units:
            unit = units.pop()
            if not self._by_position[unit.variant, unit.fault].is_finished:
                return unit
        return None

    def _unit(self, cell: CellState, end: int) -> WorkUnit:
        """Make the next unit of a cell.

        The unit ends at trial ``end`` (excluded) at the latest, and leaves a share of the trials to
        other workers.
        """
        longest = int(_UNIT_SECONDS / cell.seconds) if cell.seconds else _UNTIMED_TRIALS
        share = math.ceil((end - cell.issued.upto()) / self._pool.workers)
        most = max(1, min(longest, share, _MOST_TRIALS))
        if self._trials_at_once > 1:  # whole groups of trials that need a pass
            group = self._trials_at_once / max(self._needing.get(cell, 1.0), 1e-9)
            most = min(math.ceil(math.ceil(most / group) * group), _MOST_TRIALS)
        first, last = cell.issued.gap(most)
        return WorkUnit(*self._position[cell], first, max(min(last, end), first + 1))

    def _take(self, future: Future[UnitResult]) -> CellState:
        """Store the rows of a unit, and queue the trials without a row again."""
        unit = self._running.pop(future)
        cell = self._by_position[unit.variant, unit.fault]
        if future.cancelled() or future.exception() is not None:
            self._pool.check()
        if future.cancelled():
            raise ProactError(
                "the executor does not accept more work, and cancelled a unit: repeat the call "
                "with an executor that runs; it continues from the trials in the store"
            )
        error = future.exception()
        if isinstance(error, NotStartedError):
            self._again.append(unit)
            return cell
        if error is not None:
            if not is_lost_worker(error):
                raise ProactError(
                    f"a worker cannot run the campaign: {type(error).__name__}: {error}"
                ) from error
            self._lose(unit, error)
            return cell
        done = future.result()
        self._lost_workers = 0
        if done.rows:
            self._keep(cell, done.rows)
            ran = [row.seconds for row in done.rows if row.seconds]
            self._needing[cell] = len(ran) / len(done.rows)
            if ran:
                seconds = sum(ran) / len(ran)
                cell.seconds = 0.7 * cell.seconds + 0.3 * seconds if cell.seconds else seconds
        for trial, reason in done.failed:
            self._fail(cell, trial, 1, reason)
        if done.error is not None:
            raise done.error
        return cell

    def _keep(self, cell: CellState, rows: Sequence[Row]) -> None:
        with DeferredSignals():  # an interrupt must not part the stored rows from their state
            self._store.add(cell.spec.key, rows)
            for row in rows:
                cell.stored.add(row.trial, row.trial + 1)
                cell.issued.add(row.trial, row.trial + 1)

    def _fail(self, cell: CellState, trial: int, attempts: int, reason: str) -> None:
        self._store.fail(cell.spec.key, trial, attempts, reason)
        cell.failed += 1
        cell.stored.add(trial, trial + 1)

    def _lose(self, unit: WorkUnit, error: BaseException) -> None:
        """Queue the trials of a unit again whose worker was lost.

        Only the trial that was running may have caused the loss, so only its attempts count. If
        several were running at once, each of them runs again alone.
        """
        told = ": ".join(filter(None, (type(error).__name__, str(error))))
        if isinstance(error, LostWorkerError):
            running, told = error.trial, str(error)
        else:
            running = unit.first if len(unit) == 1 else None
        if running == SEVERAL_TRIALS:
            self._again += _parts(unit, 1)
            return
        if running is None:
            self._lost_workers += 1
            if self._lost_workers > _MOST_LOST_WORKERS:
                raise ProactError(
                    f"{self._lost_workers} workers in a row were lost before a trial ended "
                    f"({told}): check the memory of the machine, or use fewer workers"
                )
            # Other executors do not say which trial was running: find it by running each alone.
            self._again += _parts(unit, len(unit) if isinstance(error, LostWorkerError) else 1)
            return
        rest = [replace(unit, end=running), replace(unit, first=running + 1)]
        self._again += [part for part in rest if len(part)]
        suspect = replace(unit, first=running, end=running + 1)
        self._attempts[self._subject(suspect)] += 1
        if self._attempts[self._subject(suspect)] < ATTEMPTS:
            self._suspects.append(suspect)
            return
        del self._attempts[self._subject(suspect)]
        cell = self._by_position[unit.variant, unit.fault]
        self._fail(cell, running, ATTEMPTS, f"the worker was lost: {told}")

    @staticmethod
    def _subject(unit: WorkUnit) -> tuple[int, int, int]:
        return unit.variant, unit.fault, unit.first

    def _look(self, cell: CellState, next_targets: NextTargets) -> None:
        """Make the interim analyses for which enough trials are stored, of all its group."""
        group = self._group[cell]
        while not cell.is_finished and all(each.trials >= each.target for each in group):
            targets = next_targets(group)
            is_finished = list(targets) == [each.target for each in group]
            for each, target in zip(group, targets, strict=True):
                each.is_finished, each.target = is_finished, target


def _parts(unit: WorkUnit, size: int) -> list[WorkUnit]:
    """The parts of a unit with ``size`` trials each, the last one first."""
    firsts = range(unit.first, unit.end, size)
    return [replace(unit, first=first, end=first + size) for first in reversed(firsts)]
