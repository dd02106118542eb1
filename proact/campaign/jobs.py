"""Jobs and work units: the input of a worker, and the computation of one unit."""

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

#: Memory budget of all prefix caches of a campaign, over all variants and workers, in bytes.
CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class WorkUnit:
    """The trials [first, end) of one variant under one fault.

    Attributes:
        variant, fault: positions in the job.
        first, end: trial numbers; ``end`` is excluded.
    """

    variant: int
    fault: int
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class UnitResult:
    """The rows of a unit, and (trial, reason) for each trial that failed."""

    rows: Sequence[Row]
    failed: Sequence[tuple[int, str]] = ()


@dataclass(eq=False)
class Job:
    """The data that a worker needs for all units of a campaign.

    Models are encoded and in eval mode. The worker owns them and injects faults into them.

    Attributes:
        cache_bytes: memory budget of the job's prefix caches, in bytes; variants share it equally.
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
        """Return the trial runner of a variant; the first call makes it."""
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
        """Return the job for one of ``workers`` workers, with its share of the cache budget."""
        return replace(self, cache_bytes=self.cache_bytes // workers)

    def close(self) -> None:
        """Free the trial runners and their caches; a later unit makes them again."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def run(self, unit: WorkUnit) -> UnitResult:
        """Run a unit. A trial that raises is reported as failed; the other trials still run."""
        rows: list[Row] = []
        failed: list[tuple[int, str]] = []
        runner, fault = self.runner(unit.variant), self.faults[unit.fault]
        for trial in range(unit.first, unit.end):
            try:
                rows.append(runner.run(fault, trial))
            except Exception as error:
                # The model's forward runs under faults and may raise anything.
                failed.append((trial, f"{type(error).__name__}: {error}"))
        return UnitResult(rows, failed)
