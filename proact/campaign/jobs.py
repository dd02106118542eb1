"""Work units, and how a worker computes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from proact.campaign.evaluation import Evaluation
from proact.campaign.metrics import Metric
from proact.campaign.trial_runner import CleanOutputs, TrialRunner
from proact.encodings import Encoding
from proact.faults import Fault
from proact.results.policy import Policy
from proact.results.store import Row

#: Memory, in bytes, that the prefix caches of a campaign may take: all variants in all workers.
CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class WorkUnit:
    """Trials ``first`` to ``end`` - 1 of one variant under one fault, by their positions in the
    job."""

    variant: int
    fault: int
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class UnitResult:
    """The rows of a unit, and (trial, reason) of the trials that failed."""

    rows: Sequence[Row]
    failed: Sequence[tuple[int, str]] = ()


@dataclass(eq=False)
class Job:
    """Everything that a worker needs, the same for all units of a campaign.

    Models are encoded, in eval mode, and belong to the worker, which injects faults into them.

    Attributes:
        cache_bytes: memory that the prefix caches of this job may take; each variant gets the same
            share of it.
    """

    models: Sequence[nn.Module]
    clean_outputs: Sequence[CleanOutputs]
    faults: Sequence[Fault]
    encoding: Encoding
    data: Evaluation
    metric: Metric
    policy: Policy
    seed: int
    prefix_cache: bool = True
    cache_bytes: int = CACHE_BYTES
    _runners: dict[int, TrialRunner] = field(default_factory=dict, init=False, repr=False)

    def runner(self, variant: int) -> TrialRunner:
        """The trial runner of a variant, made when it is first needed."""
        if variant not in self._runners:
            self._runners[variant] = TrialRunner(
                self.models[variant],
                self.encoding,
                self.data,
                self.metric,
                self.clean_outputs[variant],
                self.policy,
                self.seed,
                self.prefix_cache,
                self.cache_bytes // len(self.models),
            )
        return self._runners[variant]

    def for_workers(self, workers: int) -> Job:
        """The job to send to one of so many workers, with its share of the memory for caches."""
        return replace(self, cache_bytes=self.cache_bytes // workers)

    def close(self) -> None:
        """Frees what trials keep in this process; a later unit builds it again."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def run(self, unit: WorkUnit) -> UnitResult:
        """Runs a unit. A trial that raises is reported as failed; the others go on."""
        rows: list[Row] = []
        failed: list[tuple[int, str]] = []
        runner, fault = self.runner(unit.variant), self.faults[unit.fault]
        for trial in range(unit.first, unit.end):
            try:
                rows.append(runner.run(fault, trial))
            except Exception as error:
                # The model's own forward runs under faults: it may raise anything.
                failed.append((trial, f"{type(error).__name__}: {error}"))
        return UnitResult(rows, failed)
