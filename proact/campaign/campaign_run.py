"""One campaign from its arguments to its cells: encoded networks, their clean answers, the store,
and the crew that works on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from proact.campaign.autotune import Asked, settle
from proact.campaign.coordinator import Coordinator, OpenCell
from proact.campaign.evaluation import Evaluation, EvaluationData, evaluation_of
from proact.campaign.executors import WORTH_PROCESSES_SECONDS, Crew, InThisProcess, crew_for
from proact.campaign.identity import (
    model_digest,
    task_facts,
    with_policy,
)
from proact.campaign.jobs import Job
from proact.campaign.metrics import is_built_in, metric_named
from proact.campaign.progress import Line, Progress, Standing, Watch, view_for
from proact.campaign.run_metadata import environment, expected_of, family_of, memory_of, run_of
from proact.campaign.settings import Order, Settings
from proact.campaign.validation import check_outputs, check_policy
from proact.encodings import encoding_named
from proact.errors import ProactError
from proact.faults import Fault, Injector, encode
from proact.ops.plan import SEEDS, checked_integer
from proact.results.cells import Source, trials_of
from proact.results.interval_set import Ranges
from proact.results.result import Result
from proact.results.run_log import Log, Run, RunCell, Variant, facts_digest
from proact.results.statistics import (
    Known,
    StoppingRule,
    Trials,
    checked_confidence,
    trials_for_margin,
)
from proact.results.store import CellKey, Store


class Session:
    """A campaign that is ready to work. Use as a context manager.

    Everything is checked, and the networks answer without faults, before the store is opened.
    """

    def __init__(
        self,
        variants: Mapping[str, nn.Module],
        data: EvaluationData,
        faults: Sequence[Fault],
        settings: Settings,
        order: Order,
        store: str | Path | None,
        executor: Executor | int | None,
        progress: Progress,
    ) -> None:
        self._settings, self._executor, self._progress = settings, executor, progress
        self._order = order
        self._has_enough = False
        self._hired: Crew | None = None
        self._names, self._faults = list(variants), list(faults)
        self._encoding = encoding_named(settings.encoding)
        self._metric = metric_named(settings.metric)
        self._confidence = checked_confidence(settings.confidence)
        self._seed = checked_integer("seed", settings.seed, SEEDS)
        models = [encode(model, self._encoding).eval() for model in variants.values()]
        self._injectors = [Injector(model, self._encoding) for model in models]
        self._expected = [
            [expected_of(injector, fault) for fault in self._faults] for injector in self._injectors
        ]
        device = self._injectors[0].device
        self._data = _on_device(evaluation_of(data, is_built_in(self._metric)), device)
        check_outputs(dict(zip(self._names, models, strict=True)), self._data, self._metric)
        if settings.policy is not None:
            check_policy(settings.policy, self._data)
        self._facts = task_facts(self._data, self._encoding, self._metric, self._seed)
        self._store = Store(store)
        self._view = view_for(progress, self._store.path)
        try:
            self._prepare(models)
        except BaseException:
            self._store.close()
            raise

    def _prepare(self, models: list[nn.Module]) -> None:
        name = self._order.name
        if name is not None:
            self._check_name(name, self._facts, {})
        asked = Asked(
            self._settings.images_per_trial,
            self._settings.policy,
            self._settings.margin_of_pilot,
            self._confidence,
        )
        self.settled, answers = settle(
            self._store, self._facts, asked, self._injectors, self._data, self._metric,
            self._faults, self._seed,
        )  # fmt: skip
        self._answers = answers
        facts = with_policy(self._facts, self.settled.policy)
        digests = [
            model_digest(model, answer.outputs)
            for model, (answer, _) in zip(models, answers, strict=True)
        ]
        if name is not None:
            self._check_name(name, facts, dict(zip(self._names, digests, strict=True)))
        task = self._store.task(facts_digest(facts), facts)
        variants = [
            self._store.variant(task, variant, digest, len(self._data), self._clean(v), counts[:3])
            for v, (variant, digest, (_, counts)) in enumerate(
                zip(self._names, digests, answers, strict=True)
            )
        ]
        if name is not None:
            for variant in variants:
                self._store.name(name, variant)
        faults = [self._store.fault(str(fault), fault.to_dict()) for fault in self._faults]
        self.cells = [
            self._open_cell(v, f, CellKey(variant, fault))
            for f, fault in enumerate(faults)
            for v, variant in enumerate(variants)
        ]
        self._stored_before = self.stored
        self._log = Log(
            self._store, self._run(models, digests, facts), environment(self._data.inputs.device)
        )
        self._job = Job(
            models,
            [answer for answer, _ in answers],
            self._faults,
            self._encoding,
            self._data,
            self._metric,
            self.settled.policy,
            self._seed,
            self._settings.shortcuts,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hired is not None:
            self._hired.close()
        try:
            self._note_the_end(error)
        finally:
            if self._store.path is not None:
                self._store.close()

    @property
    def is_better_higher(self) -> bool:
        """Of the metric's values."""
        return self._metric.is_better_higher

    @property
    def stored(self) -> int:
        """How many trials of this campaign are in the store."""
        return sum(cell.stored.count(1 << 32) for cell in self.cells)

    def work(
        self,
        goal: StoppingRule | int | Callable[[OpenCell], int],
    ) -> None:
        """Runs until every cell has what the goal asks for: a margin, a number of trials, or a
        number for each cell."""
        lines = {
            (cell.variant, cell.fault): Line(
                self._names[cell.variant], str(self._faults[cell.fault]), cell
            )
            for cell in self.cells
        }

        def target(cell: OpenCell) -> int:
            line = lines[cell.variant, cell.fault]
            if isinstance(goal, StoppingRule):
                return self._next_look(cell, goal, line)
            line.expected = goal if isinstance(goal, int) else goal(cell)
            return line.expected

        with ExitStack() as stack:
            crew = self._crew(goal)
            # Only trials of the margin's scale are shares, which people read in percent.
            scale = 100.0 if self._metric.highest - self._metric.lowest <= 1.0 else 1.0
            watch = stack.enter_context(
                Watch(Standing(list(lines.values()), crew.hands, scale), self._progress, self._view)
            )
            coordinator = Coordinator(
                self._store, self.cells, crew, watch.update, isinstance(goal, StoppingRule)
            )
            try:
                coordinator.work(target)
            finally:
                coordinator.keep_what_is_done()

    def result(self, rule: StoppingRule | None) -> Result:
        """What the rows say up to each cell's target, when there is nothing more to do."""
        self._has_enough = True
        sources = {
            (self._names[cell.variant], self._faults[cell.fault]): self.source(cell, rule)
            for cell in sorted(self.cells, key=lambda cell: cell.variant)
        }
        clean = {name: self._clean(variant) for variant, name in enumerate(self._names)}
        return Result(
            clean,
            self._confidence,
            self._metric.name,
            self.settled,
            self._log.run,
            sources,
            self._store,
        )

    def source(self, cell: OpenCell, rule: StoppingRule | None = None) -> Source:
        """Where the rows of a cell are."""
        ber = self._expected[cell.variant][cell.fault].ber
        return Source(
            self._names[cell.variant],
            str(self._faults[cell.fault]),
            ber,
            cell.key,
            self.known(cell),
            cell.target,
            rule,
            self._metric.is_better_higher,
        )

    def known(self, cell: OpenCell) -> Known:
        """What is known of a cell without a trial."""
        expected = self._expected[cell.variant][cell.fault]
        return Known(
            self._clean(cell.variant),
            expected.unflipped,
            self._metric.lowest,
            self._metric.highest,
            expected.is_clean_without_flips,
        )

    def trials(self, cell: OpenCell) -> Trials:
        """A cell's trials up to its target."""
        return trials_of(self._store, cell.key, cell.target, self.known(cell))

    def _clean(self, variant: int) -> float:
        answer, _ = self._answers[variant]
        return float(answer.values.mean())

    def _run(self, models: list[nn.Module], digests: list[str], facts: Mapping[str, Any]) -> Run:
        variants = [
            Variant(
                name,
                type(model).__name__,
                self._clean(v),
                digest,
                memory_of(model, self._encoding),
            )
            for v, (name, model, digest) in enumerate(
                zip(self._names, models, digests, strict=True)
            )
        ]
        cells = [self._run_cell(cell) for cell in self.cells]
        images = len(self._data)
        return run_of(self._order, self._settings, self._metric, images, facts, variants, cells)

    def _run_cell(self, cell: OpenCell) -> RunCell:
        expected = self._expected[cell.variant][cell.fault]
        parts, fields = self._order.parts, self._order.fields
        return RunCell(
            self._names[cell.variant],
            str(self._faults[cell.fault]),
            self._order.fault or family_of(self._faults[cell.fault]),
            cell.key,
            expected.ber,
            expected.bits,
            expected.unflipped,
            expected.is_clean_without_flips,
            part=parts[cell.fault] if parts else None,
            field=fields[cell.fault] if fields else None,
        )

    def _note_the_end(self, error: BaseException | None) -> None:
        rows = self.stored - self._stored_before
        if error is None and self._has_enough:
            self._log.close("finished", rows, {cell.key: cell.target for cell in self.cells})
            return
        is_interrupted = error is None or isinstance(error, KeyboardInterrupt)
        # The error that ends the run may be that the store cannot be written.
        with suppress(ProactError):
            told = "interrupted" if is_interrupted else f"{type(error).__name__}: {error}"
            self._log.close(told, rows)

    def _next_look(self, cell: OpenCell, rule: StoppingRule, line: Line) -> int:
        known = self.known(cell)
        if cell.target == 0:
            line.expected = rule.first(known)
            if line.expected == 0:
                return 0
            return line.expected
        trials = self.trials(cell)
        following = rule.next(trials, known)
        glance = rule.glance(trials, known)
        line.estimate, line.half_width = glance.estimate, glance.half_width
        line.expected = max(glance.expected, following or 0)
        return cell.target if following is None else following

    def _check_name(self, name: str, facts: dict[str, object], digests: dict[str, str]) -> None:
        found = self._store.named(name)
        if found is None:
            return
        stored, known = found
        differing = [key for key in facts if stored.get(key) != facts[key]]
        if differing:
            told = ", ".join(f"{k} is {stored.get(k)} there and {facts[k]} here" for k in differing)
            raise ProactError(
                f"the store {self._store.path} has a campaign {name!r} of another task: {told}; "
                "give this one another name"
            )
        changed = [v for v, digest in digests.items() if known.get(v, digest) != digest]
        if changed:
            raise ProactError(
                f"the store {self._store.path} has a campaign {name!r} with other networks by the "
                f"names {', '.join(changed)}; give this one another name"
            )

    def _open_cell(self, variant: int, fault: int, key: CellKey) -> OpenCell:
        if self._settings.retry_failed:
            self._store.forget_failures(key)
        runs = self._store.runs(key)
        failed = len(self._store.failures(key, 1 << 32))
        images = self.settled.policy.images or len(self._data)
        return OpenCell(
            variant,
            fault,
            key,
            Ranges(runs),
            failed=failed,
            seconds=self.settled.cost.seconds(images),
            issued=Ranges(runs),
        )

    def _crew(self, goal: StoppingRule | int | Callable[[OpenCell], int]) -> Crew:
        is_on_gpu = self._data.inputs.device.type != "cpu"
        # Workers would wait for each other at the one device.
        is_quick = is_on_gpu or self._expected_seconds(goal) < WORTH_PROCESSES_SECONDS
        executor = 1 if self._executor is None and is_quick else self._executor
        if self._hired is None or (isinstance(self._hired, InThisProcess) and executor != 1):
            self._hired = crew_for(self._job, executor)
        return self._hired

    def _expected_seconds(self, goal: StoppingRule | int | Callable[[OpenCell], int]) -> float:
        images = self.settled.policy.images or len(self._data)
        seconds = 0.0
        for cell in self.cells:
            if isinstance(goal, StoppingRule):
                # Between nothing lost and everything.
                trials = min(trials_for_margin(goal.margin, goal.confidence) // 4, goal.most)
            else:
                trials = goal if isinstance(goal, int) else goal(cell)
            seconds += max(trials - cell.trials, 0) * self.settled.cost.seconds(images)
        return seconds


def _on_device(data: Evaluation, device: torch.device) -> Evaluation:
    targets = None if data.targets is None else data.targets.to(device)
    return Evaluation(data.inputs.to(device), targets)
