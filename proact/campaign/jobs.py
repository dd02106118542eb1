"""Jobs and work units: the input of a worker, and the computation of one unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from proact.campaign.clean_results import CleanResults
from proact.campaign.measurement import Measurement
from proact.campaign.pickling import pickled
from proact.campaign.scoring import DetectedError
from proact.campaign.trial_runner import TrialRunner
from proact.encodings import Encoding
from proact.errors import ProactError
from proact.faults import Fault
from proact.interruption import Terminated
from proact.models.torch_settings import TorchSettings
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
    """The result of a unit.

    Attributes:
        rows: one row per trial.
        failed: (trial, reason) for each trial that has no row.
        error: an error of the user's code that ended the unit early; it ends the campaign.
    """

    rows: Sequence[Row]
    failed: Sequence[tuple[int, str]] = ()
    error: Exception | None = None


@dataclass(eq=False)
class Job:
    """The data that a worker needs for all units of a campaign.

    Models are encoded and in eval mode. The worker owns them and injects faults into them.

    Attributes:
        cache_bytes: memory budget of the job's prefix caches, in bytes; variants share it equally.
        settings: of torch, for the trials; by default those where the job is made.
    """

    models: Sequence[nn.Module]
    clean: Sequence[CleanResults]
    faults: Sequence[Fault]
    encoding: Encoding
    measurement: Measurement
    policy: Policy
    seed: int
    prefix_cache: bool = True
    cache_bytes: int = CACHE_BYTES
    settings: TorchSettings = field(default_factory=TorchSettings.current)
    _runners: dict[int, TrialRunner] = field(default_factory=dict, init=False, repr=False)

    def runner(self, variant: int) -> TrialRunner:
        """Return the trial runner of a variant; the first call makes it."""
        if variant not in self._runners:
            self._runners[variant] = TrialRunner(
                self.models[variant],
                self.encoding,
                self.measurement,
                self.clean[variant],
                self.policy,
                self.seed,
                self.prefix_cache,
                self.cache_bytes // len(self.models),
            )
        return self._runners[variant]

    def for_workers(self, workers: int) -> bytes:
        """Pickle the job for one of ``workers`` workers, with its share of the cache budget.

        Raises:
            ProactError: the job cannot be pickled.
        """
        try:
            return pickled(replace(self, cache_bytes=self.cache_bytes // workers))
        except Exception as error:  # parts of a model may raise anything
            raise ProactError(
                f"the models cannot be sent to workers ({error}): use executor=1 to run in this "
                "process"
            ) from error

    def close(self) -> None:
        """Free the trial runners and their caches; a later unit makes them again."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def run(self, unit: WorkUnit, begin: Callable[[int], None] = lambda trial: None) -> UnitResult:
        """Run a unit, up to the first error of the model without faults or of the metric.

        Args:
            unit: the unit to run.
            begin: as for `TrialRunner.run_many`.
        """
        rows: list[Row] = []
        failed: list[tuple[int, str]] = []
        try:
            with self.settings.in_force():
                runner, fault = self.runner(unit.variant), self.faults[unit.fault]
                for found in runner.run_many(fault, range(unit.first, unit.end), begin):
                    if isinstance(found, DetectedError):
                        failed.append((found.trial, str(found)))
                    else:
                        rows.append(found)
        except Terminated:
            raise
        except SystemExit as error:
            ended = ProactError(f"the model or the metric ended Python by SystemExit({error})")
            return UnitResult(rows, failed, ended)
        except Exception as error:
            # The user's code may raise anything.
            return UnitResult(rows, failed, error)
        return UnitResult(rows, failed)
