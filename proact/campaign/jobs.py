"""Jobs and work units: the input of a worker, and the computation of one unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from proact.campaign.clean_results import CleanResults
from proact.campaign.measurement import Measurement
from proact.campaign.output_comparison import equal_up_to, tolerance_of
from proact.campaign.pickling import pickled
from proact.campaign.scoring import DetectedError
from proact.campaign.trial_runner import TrialRunner
from proact.encodings import Encoding
from proact.errors import ProactError
from proact.faults import Fault
from proact.interruption import Terminated
from proact.models.torch_settings import TorchSettings
from proact.nn.outputs import dense
from proact.results.policy import Policy
from proact.results.store import Row

#: Memory budget of all prefix caches of a campaign, over all variants and workers, in bytes.
CACHE_BYTES = 2 << 30

#: The batches on which a worker's outputs are compared with ours, and their samples.
_COMPARED_BATCHES, _COMPARED_SAMPLES = 3, 4
#: About so many numbers of a batch are compared.
_COMPARED_NUMBERS = 1 << 14
#: Differences of this share of the largest number can come from another number of threads, where a
#: model rounds its activations.
_ROUNDING = 0.05


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
        expected: for each model, numbers from outputs without faults that a worker must reproduce;
            empty in the process that made the job.
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
    expected: Sequence[Sequence[Tensor]] = ()
    _runners: dict[int, TrialRunner] = field(default_factory=dict, init=False, repr=False)

    def runner(self, variant: int) -> TrialRunner:
        """Return the trial runner of a variant; the first call makes it.

        Raises:
            ProactError: the model gives other outputs than in the process that made the job.
        """
        if variant not in self._runners:
            if self.expected:
                self._check_outputs(variant)
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
        expected = [self._outputs(model) for model in self.models]
        sent = replace(self, cache_bytes=self.cache_bytes // workers, expected=expected)
        try:
            return pickled(sent)
        except Exception as error:  # parts of a model may raise anything
            raise ProactError(
                f"the models cannot be sent to workers ({error}): use executor=1 to run in this "
                "process"
            ) from error

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        """Return numbers from the outputs for a few small batches, (n,) for each batch.

        There are none where trials keep state, or where outputs are no tensors: the number and the
        order of the objects that a detector finds can hang on the last digits.
        """
        if self.measurement.state == "keep":
            return []
        data = self.measurement.data.first(_COMPARED_BATCHES * _COMPARED_SAMPLES)
        part = replace(self.measurement, data=data)
        policy = replace(self.policy, images=None, batch=_COMPARED_SAMPLES)
        with torch.inference_mode():
            outputs = [part.output(model, batch.inputs) for batch in part.batches(None, policy)]
        return [_some_numbers(output) for output in outputs if isinstance(output, Tensor)]

    def _check_outputs(self, variant: int) -> None:
        model, expected = self.models[variant], self.expected[variant]
        # Rounding at a threshold can change an answer much, but not that of every batch.
        if expected and not any(
            equal_up_to(max(tolerance_of([theirs]), _ROUNDING), theirs, own)
            for theirs, own in zip(expected, self._outputs(model), strict=False)
        ):
            raise ProactError(
                f"{type(model).__name__} gives other outputs in a worker than in the process that "
                "started the campaign: a module's global variable, for example, has been changed "
                "here and not there; run in this process with executor=1, or keep what changes in "
                "an attribute of the model"
            )

    def close(self) -> None:
        """Free the trial runners and their caches; a later unit makes them again."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def run(self, unit: WorkUnit, begin: Callable[[int], None] = lambda trial: None) -> UnitResult:
        """Run a unit, up to the first error of the model without faults or of the metric.

        A unit in which the settings of torch changed has no rows, because they may be wrong.

        Args:
            unit: the unit to run.
            begin: as for `TrialRunner.run_many`.
        """
        try:
            with self.settings.in_force():
                return self._run(unit, begin)
        except Exception as error:  # of the settings; errors in trials are results
            return UnitResult((), (), error)

    def _run(self, unit: WorkUnit, begin: Callable[[int], None]) -> UnitResult:
        rows: list[Row] = []
        failed: list[tuple[int, str]] = []
        try:
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


def _some_numbers(output: Tensor) -> Tensor:
    flat = dense(output).reshape(-1)
    # Widths are even as a rule, so that an odd step reaches every column.
    return flat[:: max(len(flat) // _COMPARED_NUMBERS, 1) | 1].clone()
