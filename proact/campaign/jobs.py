"""Units of work, and what a worker does with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from proact.campaign.evaluation import Evaluation
from proact.campaign.identity import Policy
from proact.campaign.metrics import Metric
from proact.campaign.trial_runner import Answers, Bench
from proact.encodings import Encoding
from proact.faults import Fault
from proact.results.store import Row

#: Memory, in bytes, that the prefix caches of a campaign may take: all variants in all workers.
CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Unit:
    """Trials ``first`` to ``end`` - 1 of one variant under one fault, by their positions."""

    variant: int
    fault: int
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Done:
    """What became of a unit: the rows that came about, and why each other trial did not."""

    rows: Sequence[Row]
    failed: Sequence[tuple[int, str]] = ()


@dataclass(eq=False)
class Job:
    """All that a worker needs, the same for every unit of a campaign. Models are encoded, in eval
    mode, and the worker's own to fault.

    Attributes:
        cache_bytes: memory that the prefix caches of this job may take; each variant gets the same
            share of it.
    """

    models: Sequence[nn.Module]
    answers: Sequence[Answers]
    faults: Sequence[Fault]
    encoding: Encoding
    data: Evaluation
    metric: Metric
    policy: Policy
    seed: int
    shortcuts: bool = True
    cache_bytes: int = CACHE_BYTES
    _benches: dict[int, Bench] = field(default_factory=dict, init=False, repr=False)

    def bench(self, variant: int) -> Bench:
        if variant not in self._benches:
            self._benches[variant] = Bench(
                self.models[variant],
                self.encoding,
                self.data,
                self.metric,
                self.answers[variant],
                self.policy,
                self.seed,
                self.shortcuts,
                self.cache_bytes // len(self.models),
            )
        return self._benches[variant]

    def for_workers(self, workers: int) -> Job:
        """The job to send to one of so many workers, with its share of the memory for caches."""
        return replace(self, cache_bytes=self.cache_bytes // workers)

    def close(self) -> None:
        """Frees what trials keep in this process; a later unit builds it again."""
        for bench in self._benches.values():
            bench.close()
        self._benches.clear()

    def run(self, unit: Unit) -> Done:
        """Runs a unit. A trial that raises is left out and reported; the others go on."""
        rows: list[Row] = []
        failed: list[tuple[int, str]] = []
        bench, fault = self.bench(unit.variant), self.faults[unit.fault]
        for trial in range(unit.first, unit.end):
            try:
                rows.append(bench.run(fault, trial))
            except Exception as error:
                # The network's own forward, under faults: anything may be raised.
                failed.append((trial, f"{type(error).__name__}: {error}"))
        return Done(rows, failed)
