"""Run one campaign from its arguments to its result.

A `CampaignRun` owns the encoded models, their clean outputs, the store and the worker pool.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import nn

from proact.campaign.autotune import Task, Tuning, group_size, tune
from proact.campaign.built_in_metrics import metric_named
from proact.campaign.cell_trials import CellTrials, Goal
from proact.campaign.clean_results import CleanResults
from proact.campaign.coordinator import ATTEMPTS, Coordinator, NextTargets
from proact.campaign.executors import WORTH_PROCESSES_SECONDS, InProcess, worker_pool_for
from proact.campaign.identity import ModelDigest, task_facts, with_policy
from proact.campaign.jobs import Job
from proact.campaign.measurement import Measurement
from proact.campaign.metrics import Metric
from proact.campaign.model_checks import check_model
from proact.campaign.options import RunOptions
from proact.campaign.paired_trials import PairedTrials
from proact.campaign.progress import Announcer, CampaignProgress, callback_for
from proact.campaign.registration import check_name, register_variants
from proact.campaign.run_metadata import SweepParts, cell_spec, environment, memory_of
from proact.campaign.shared_trials import SharedTrials
from proact.campaign.strata import planned_faults
from proact.campaign.validation import (
    check_difference_margin,
    check_guards,
    check_images,
    check_margin,
    check_measurement,
    check_outputs,
    check_policy,
    check_strata,
)
from proact.campaign.worker_pool import WorkerPool
from proact.campaign.worst_cases import worst_cases
from proact.data import as_evaluation
from proact.data.dataset import SamplesOrData
from proact.errors import ProactError
from proact.faults import Fault, Injector, encode
from proact.faults.encode import selector_of
from proact.faults.mixed_encoding import MixedEncoding, checked_encoding
from proact.interruption import INTERRUPTIONS
from proact.limits import TRIALS
from proact.nn.forward import Forward
from proact.nn.tensor_inventory import stored_tensors
from proact.results.cells import CellSpec, CellState
from proact.results.interval_set import IntervalSet
from proact.results.result import Result, read
from proact.results.run_log import RunLog, RunSpec, Variant
from proact.results.statistics import (
    Prior,
    SequentialRule,
    Trials,
    trials_for_margin,
)
from proact.results.store import CellKey, Store
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
        self._options, self._sweep = options, sweep
        self._is_done = False
        self._pool: WorkerPool | None = None
        self._names, self._faults = list(variants), list(faults)
        self._encoding = checked_encoding(options.encoding)
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
            # The data first: reading it is quicker than encoding models.
            split = as_evaluation(data, options.collate, in_batches=options.unit == "batch")
            check_guards(variants)
            where = selector_of(self._faults)
            models = [
                encode(model, self._encoding, where=where).eval() for model in variants.values()
            ]
            if isinstance(self._encoding, MixedEncoding):
                self._encoding.refuse_unused(map(stored_tensors, models))
            self._injectors = [Injector(model, self._encoding) for model in models]
            for injector in self._injectors:
                for fault in self._faults:
                    injector.expected_ber(fault)  # raises if the fault does not fit the model
            self._measurement = Measurement(
                split.to(self._injectors[0].device),
                self.metric,
                Forward(options.forward, options.output),
                options.on_error,
                options.state,
            )
            check_measurement(self._measurement)
            check_images(options.images_per_trial, split)
            check_outputs(dict(zip(self._names, models, strict=True)), self._measurement)
            self._check_models(variants)
            if options.policy is not None:
                check_policy(options.policy, split)
            self._store = Store(options.store)
            stack.push(lambda kind, *_: self._store.close() if kind is not None else None)
            check_store(self._store)
            self._prepare(models, data)

    def _end_of_failed_preparation(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        if error is not None:
            self._announcer.end(error)

    def _check_models(self, variants: Mapping[str, nn.Module]) -> None:
        """Check that answers are functions of memory and input; put the findings into the notes."""
        findings = {
            name: check_model(name, model, injector, self._faults, self._measurement)
            for (name, model), injector in zip(variants.items(), self._injectors, strict=True)
        }
        self._findings = {name: found.to_dict() for name, found in findings.items() if found}

    def _prepare(self, models: list[nn.Module], data: SamplesOrData) -> None:
        facts = task_facts(self._measurement, self._encoding, self._options.seed)
        check_name(self._store, self._options.name, facts, {})
        digests = [ModelDigest(model) for model in models]
        task = Task(facts, digests[0].of_content, self._injectors, self._measurement, self._faults)
        self.tuning: Tuning
        self.tuning, clean = tune(self._store, task, self._options, self._announcer.stage)
        facts = with_policy(facts, self.tuning.policy)
        self._planned = planned_faults(
            self._store, task, clean[0], self.tuning.policy, self._options, self._announcer.stage
        )
        self._worst_cases = worst_cases(
            self._store,
            task,
            data,
            dict(zip(self._names, zip(digests, clean, strict=True), strict=True)),
            self.tuning.policy,
            self._options,
            self._announcer.stage,
        )
        variants = [
            Variant(
                name,
                type(model).__name__,
                results.value(self._measurement, self.tuning.policy),
                digest.with_outputs(results.digest),
                memory_of(model, self._encoding),
            )
            for name, model, digest, results in zip(
                self._names, models, digests, clean, strict=True
            )
        ]
        self.cells = self._states(self._registered(facts, variants, clean))
        self._stored_before = self.stored
        self.spec = self._run_spec(facts, variants)
        self._log = RunLog(self._store, self.spec, environment(self._measurement.data.device))
        self._job = Job(
            models,
            clean,
            [planned.fault for planned in self._planned],
            self._encoding,
            self._measurement,
            self.tuning.policy,
            self._options.seed,
            self._options.prefix_cache,
        )

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
        if rule is None or len(self._names) == 1:
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
        faults = [planned.fault for planned in self._planned]
        # Rows that depend on the order of the trials belong to no other cell.
        sharing = {} if self._options.state == "keep" else cells
        shared = SharedTrials(self._store, faults, self._injectors, self._options.seed, sharing)
        coordinator = Coordinator(
            self._store,
            cells,
            group_of,
            pool,
            self._announcer.update,
            shared,
            runs_ahead,
            self.tuning.policy.trials_at_once,
        )
        try:
            coordinator.work(targets)
        finally:
            coordinator.keep_what_is_done()

    def finished(self) -> Result:
        """Record that every cell met the goal, and read the result from the store."""
        stopped = [self.cells[position].target for position in self._positions()]
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

    def _positions(self) -> list[tuple[int, int]]:
        """Of the cells, or of their strata, in the job; strata of one cell stand together."""
        return [
            (variant, position)
            for number in range(len(self._faults))
            for variant in range(len(self._names))
            for position, planned in enumerate(self._planned)
            if planned.number == number and planned.is_in(variant)
        ]

    def _registered(
        self,
        facts: Mapping[str, Any],
        variants: Sequence[Variant],
        clean: Sequence[CleanResults],
    ) -> dict[tuple[int, int], CellKey]:
        """Register the campaign in the store; return the keys of cells by position."""
        name = self._options.name
        check_name(self._store, name, facts, {each.name: each.digest for each in variants})
        counts = [results.counts[:3] for results in clean]
        numbers = register_variants(
            self._store, name, facts, variants, counts, len(self._measurement.data)
        )
        faults = [
            self._store.fault(str(planned.fault), planned.fault.to_dict())
            for planned in self._planned
        ]
        return {(v, f): (numbers[v], faults[f]) for v, f in self._positions()}

    def _states(self, keys: Mapping[tuple[int, int], CellKey]) -> dict[tuple[int, int], CellState]:
        states = {}
        attempts = self._attempts_to_repeat
        for (variant, position), key in keys.items():
            runs = self._store.runs(key, attempts)
            planned = self._planned[position]
            stratum = planned.of_variants[variant]
            spec = cell_spec(
                self._names[variant],
                self._injectors[variant],
                self._faults[planned.number],
                key,
                self._sweep,
                planned.number,
            )
            if stratum is not None:
                spec = replace(spec, unflipped=0.0, stratum=stratum)
                expected = math.ceil(stratum.planned)
            else:
                # Progress shows what the pilot expects, until the first interim analysis.
                cells = len(self._names) * len(self._faults)
                group = (variant * len(self._faults) + planned.number) // group_size(cells)
                expected = dict(enumerate(self.tuning.expected)).get(group, 0)
            states[variant, position] = CellState(
                spec,
                IntervalSet(runs),
                failed=len(self._store.failures(key, TRIALS, attempts)),
                seconds=self._seconds_per_trial,
                issued=IntervalSet(runs),
                planned=min(expected, self._options.most_trials or TRIALS),
            )
        return states

    def _run_spec(self, facts: Mapping[str, Any], variants: Sequence[Variant]) -> RunSpec:
        options = self._options
        return RunSpec(
            kind="campaign" if self._sweep is None else self._sweep.kind,
            name=options.name,
            margin=options.absolute_margin,
            relative_margin=options.relative_margin,
            difference_margin=None if self._sweep else options.margin_of_differences,
            trials=options.most_trials,
            confidence=options.confidence,
            metric=self.metric.name,
            lowest=self.metric.lowest,
            highest=self.metric.highest,
            is_better_higher=self.metric.is_better_higher,
            encoding=self._encoding.name,
            seed=facts["seed"],
            images=len(self._measurement.data),
            images_per_trial=facts["policy"]["images"],
            facts=facts,
            variants=tuple(variants),
            cells=tuple(self.cells[position].spec for position in self._positions()),
            notes={**options.notes, **self._own_notes},
        )

    @property
    def _own_notes(self) -> dict[str, Any]:
        """Findings of checks, and worst cases, if there are any."""
        notes = {"checks": self._findings, "worst_cases": self._worst_cases}
        return {name: found for name, found in notes.items() if found}

    def _record_end(self, error: BaseException | None) -> None:
        if self._is_done:
            return
        is_interrupted = error is None or isinstance(error, INTERRUPTIONS)
        outcome = "interrupted" if is_interrupted else f"{type(error).__name__}: {error}"
        # The run may have ended because the store cannot be written.
        with suppress(ProactError):
            self._log.close(outcome, self.stored - self._stored_before)

    @property
    def _attempts_to_repeat(self) -> int:
        """Failed trials with so many attempts run again.

        A trial has several attempts only if its worker was lost, which another machine, or this
        one with more free memory, may not repeat. Such a trial does not run in this process unless
        the caller asks for it.
        """
        if self._options.retry_failed:
            return 1
        return TRIALS if self._options.executor == 1 else ATTEMPTS

    @property
    def _has_lost_trials(self) -> bool:
        return any(
            self._store.failures(cell.spec.key, TRIALS)
            != self._store.failures(cell.spec.key, TRIALS, ATTEMPTS)
            for cell in self.cells.values()
        )

    @property
    def _seconds_per_trial(self) -> float:
        images = self.tuning.policy.images or len(self._measurement.data)
        return self.tuning.cost.seconds(images)

    def _pool_for(self, goal: Goal) -> WorkerPool:
        is_on_gpu = self._measurement.data.device.type != "cpu"
        # Workers that share one GPU would wait for each other.
        is_quick = is_on_gpu or self._expected_seconds(goal) < WORTH_PROCESSES_SECONDS
        executor = self._options.executor
        # A trial that ended its worker would end this process too.
        if executor is None and is_quick and not self._has_lost_trials:
            executor = 1
        if self._pool is None or (isinstance(self._pool, InProcess) and executor != 1):
            self._pool = worker_pool_for(self._job, executor)
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
            seconds += max(trials - cell.trials, 0) * self._seconds_per_trial
        return seconds
