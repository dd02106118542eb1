"""Run one campaign from its arguments to its result.

A `CampaignRun` owns the encoded models, their golden outputs, the store and the worker pool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import nn

from proact.campaign.built_in_metrics import metric_named
from proact.campaign.campaign_plan import CampaignPlan
from proact.campaign.cell_trials import CellTrials, Goal
from proact.campaign.checked_models import checked_models
from proact.campaign.coordinator import ATTEMPTS, Coordinator, NextTargets
from proact.campaign.executors import WORTH_PROCESSES_SECONDS, InProcess, worker_pool_for
from proact.campaign.metrics import Metric
from proact.campaign.options import RunOptions
from proact.campaign.paired_trials import PairedTrials
from proact.campaign.progress import Announcer, CampaignProgress, callback_for
from proact.campaign.run_metadata import SweepParts, environment
from proact.campaign.shared_trials import SharedTrials
from proact.campaign.validation import check_difference_margin, check_margin, check_strata
from proact.campaign.worker_pool import WorkerPool
from proact.data.dataset import SamplesOrData
from proact.errors import ProactError
from proact.faults import Fault
from proact.interruption import INTERRUPTIONS
from proact.limits import TRIALS
from proact.results.cells import CellSpec, CellState
from proact.results.result import Result, read
from proact.results.run_log import RunLog, RunSpec
from proact.results.statistics import Prior, SequentialRule, Trials, trials_for_margin
from proact.results.store import Store
from proact.results.store_check import check_store
from proact.results.stored_trials import trials_of
from proact.text import printable


class CampaignRun:
    """A campaign that is ready to run trials. Use it as a context manager.

    All arguments are checked, and every model runs once on one input, before the store is opened.

    Attributes:
        cells: the state of each cell, by the positions (variant, fault).
        metric: the quantity that cells average.
    """

    def __init__(
        self,
        variants: Mapping[str, nn.Module],
        data: SamplesOrData,
        faults: Sequence[Fault],
        options: RunOptions,
        sweep: SweepParts | None = None,
    ) -> None:
        self._options = options
        self._is_done = False
        self._pool: WorkerPool | None = None
        self.metric: Metric = metric_named(options.metric)
        check_margin(options.absolute_margin, self.metric)
        check_difference_margin(options, self.metric)
        self.cells: dict[tuple[int, int], CellState] = {}
        #: The states that progress shows while pairs run; empty before.
        self._shown: dict[tuple[int, int], CellState] = {}
        #: See `RunSpec.paired`.
        self._further: dict[str, dict[str, list[int]]] = {}
        self.spec: RunSpec
        self._announcer = Announcer(callback_for(options.progress), self._progress)
        self._announcer.stage("checking models and data")
        with ExitStack() as stack:
            stack.push(self._end_of_failed_preparation)
            check_strata(options)
            self._checked = checked_models(variants, data, faults, self.metric, options)
            self._store = Store(options.store)
            stack.push(lambda kind, *_: self._store.close() if kind is not None else None)
            check_store(self._store)
            self._plan = CampaignPlan(
                self._store, self._checked, data, faults, options, sweep, self._announcer.stage
            )
            self.cells, self.spec = self._plan.cells, self._plan.spec
            self._stored_before = self.stored
            device = self._checked.measurement.data.device
            self._log = RunLog(self._store, self.spec, environment(device))

    def _end_of_failed_preparation(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        if error is not None:
            self._announcer.end(error)

    def __enter__(self) -> CampaignRun:
        try:
            self._announcer.update()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            if self._store.path is not None:
                stack.callback(self._store.close)
            # Record the end of the run even if the pool cannot be closed.
            stack.callback(self._record_end, error)
            if self._pool is not None:
                stack.callback(self._pool.close)
            if isinstance(error, INTERRUPTIONS):
                with suppress(OSError):  # SIGHUP comes when the terminal is gone
                    print(printable(self._how_to_resume()), file=sys.stderr, flush=True)
            self._announcer.end(error)

    @property
    def stored(self) -> int:
        """The number of trials of this campaign in the store."""
        return sum(cell.stored.count(1 << 32) for cell in self.cells.values())

    def run_trials(self, goal: Goal) -> None:
        """Run trials until every cell meets the goal."""

        def cell_of(spec: CellSpec) -> tuple[str, str]:
            return spec.variant, spec.fault

        needed = CellTrials(self._store, self.spec, goal)
        pool = self._pool_for(goal)
        self._work(self.cells, cell_of, pool, needed.targets, isinstance(goal, SequentialRule))

    def run_pairs(self) -> None:
        """Run further trials until differences to the first variant have the pairs that they need.

        The results of cells do not use them.
        """
        rule = self.spec.difference_rule
        if rule is None or len(self._checked.names) == 1:
            return
        paired = PairedTrials(self._store, self.spec, rule, list(self.cells.values()))
        # These states have targets of their own, and the same sets of stored trials.
        self._shown = {
            position: replace(cell, planned=0, estimate=None)
            for position, cell in self.cells.items()
        }
        assert self._pool is not None
        self._work(self._shown, lambda spec: spec.fault, self._pool, paired.targets, True)
        self._further = paired.further

    def _work(
        self,
        cells: Mapping[tuple[int, int], CellState],
        group_of: Callable[[CellSpec], object],
        pool: WorkerPool,
        targets: NextTargets,
        runs_ahead: bool,
    ) -> None:
        # Rows that depend on the order of the trials belong to no other cell.
        sharing = {} if self._options.state == "keep" else cells
        shared = SharedTrials(
            self._store,
            self._plan.job.faults,
            self._checked.injectors,
            self._options.seed,
            sharing,
        )
        coordinator = Coordinator(
            self._store,
            cells,
            group_of,
            pool,
            self._announcer.update,
            shared,
            runs_ahead,
            self._plan.tuning.policy.trials_at_once,
        )
        try:
            coordinator.work(targets)
        finally:
            coordinator.keep_what_is_done()

    def finished(self) -> Result:
        """Record that every cell met the goal, and read the result from the store."""
        stopped = [cell.target for cell in self.cells.values()]
        self._refuse_all_failed()
        self._log.close("finished", self.stored - self._stored_before, stopped, self._further)
        self._is_done = True
        return next(each for each in read(self._store) if each.number == self._log.number)

    def _refuse_all_failed(self) -> None:
        """Raise ProactError if no trial of the campaign has a result."""
        failures = [
            failure
            for cell in self.cells.values()
            for failure in self._store.failures(cell.spec.key, cell.target)
        ]
        targets = sum(cell.target for cell in self.cells.values())
        if failures and len(failures) == targets:
            raise ProactError(
                f"all {targets} trials failed, so there is no result; trial {failures[0][0]} "
                f"ended with: {failures[0][1]}"
            )

    def _progress(
        self, is_running: bool, error: BaseException | None, stage: str | None
    ) -> CampaignProgress:
        return CampaignProgress(
            list((self._shown or self.cells).values()),
            1 if self._pool is None else self._pool.workers,
            self.spec if self.cells else None,
            self._options.store,
            is_running,
            error,
            stage,
        )

    def _how_to_resume(self) -> str:
        if self._options.store is None:
            return "Interrupted: the rows were in memory and are lost; store=... keeps them."
        return (
            f"Interrupted: {self.stored} trials are kept in {self._options.store}; the same call "
            "continues from there."
        )

    def prior(self, cell: CellState) -> Prior:
        """Return the prior knowledge of a cell, before its first trial."""
        return self.spec.prior(cell.spec)

    def trials(self, cell: CellState) -> Trials:
        """Read the trials of a cell up to its target."""
        return trials_of(self._store, cell.spec.key, cell.target, self.prior(cell))

    def _record_end(self, error: BaseException | None) -> None:
        if self._is_done:
            return
        is_interrupted = error is None or isinstance(error, INTERRUPTIONS)
        outcome = "interrupted" if is_interrupted else f"{type(error).__name__}: {error}"
        # The run may have ended because the store cannot be written.
        with suppress(ProactError):
            self._log.close(outcome, self.stored - self._stored_before)

    @property
    def _has_lost_trials(self) -> bool:
        return any(
            self._store.failures(cell.spec.key, TRIALS)
            != self._store.failures(cell.spec.key, TRIALS, ATTEMPTS)
            for cell in self.cells.values()
        )

    def _pool_for(self, goal: Goal) -> WorkerPool:
        is_on_gpu = self._checked.measurement.data.device.type != "cpu"
        # Workers that share one GPU would wait for each other.
        is_quick = is_on_gpu or self._expected_seconds(goal) < WORTH_PROCESSES_SECONDS
        executor = self._options.executor
        # A trial that ended its worker would end this process too.
        if executor is None and is_quick and not self._has_lost_trials:
            executor = 1
        if self._pool is None or (isinstance(self._pool, InProcess) and executor != 1):
            self._pool = worker_pool_for(self._plan.job, executor)
        return self._pool

    def _expected_seconds(self, goal: Goal) -> float:
        seconds = 0.0
        for cell in self.cells.values():
            if isinstance(goal, SequentialRule):
                width = self.metric.highest - self.metric.lowest
                margin = self._options.margin_for_planning(width)
                # A guess between the trials of an intact cell and those of a fully degraded one.
                trials = trials_for_margin(min(margin / width, 1.0), goal.confidence) // 4
                trials = min(trials, goal.most)
            else:
                trials = goal if isinstance(goal, int) else goal(cell)
            seconds += max(trials - cell.trials, 0) * self._plan.seconds_per_trial
        return seconds
