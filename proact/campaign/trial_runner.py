"""Run the trials of one variant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from proact.campaign.clean_results import CleanResults
from proact.campaign.draws import drawn_units
from proact.campaign.identity import laid_out
from proact.campaign.measurement import EvaluatedBatch, Measurement
from proact.campaign.scoring import DetectedError, Raised, Score, row_of, scored
from proact.campaign.trial_groups import TrialGroups
from proact.encodings import Encoding
from proact.faults import ActivationFlip, BitFlipStratum, Fault, Injector
from proact.faults.activation_hooks import UnhitActivationError
from proact.faults.record import Record
from proact.nn.forward import Forward
from proact.nn.prefix_cache import MemoryBudget, MultiCutCache
from proact.results.policy import Policy
from proact.results.store import Row

#: Building a prefix cache takes the time of several trials.
_TRIALS_BEFORE_CACHE = 20


@dataclass(eq=False)
class TrialRunner:
    """Runs trials of one encoded model in eval mode.

    Attributes:
        model: the runner injects faults into it, and removes them after each trial.
        encoding: the stored form of its parameters.
        measurement: the samples and the metric, on the device of the model.
        clean: the clean results of the model, on the same device.
        policy: how trials are run.
        seed: determines faults and images together with the trial number, in [0, 2^63).
        prefix_cache: whether trials with flips late in the model reuse cached activations.
        cache_bytes: memory budget of the cached activations, in bytes.
    """

    model: nn.Module
    encoding: Encoding
    measurement: Measurement
    clean: CleanResults
    policy: Policy
    seed: int
    prefix_cache: bool = True
    cache_bytes: int = 0
    injector: Injector = field(init=False)

    def __post_init__(self) -> None:
        self.injector = Injector(self.model, self.encoding, is_private=True)
        self._cache: MultiCutCache | None = None
        #: Trials until the prefix cache is built; None afterwards.
        self._trials_before_cache: int | None = _TRIALS_BEFORE_CACHE
        self._clean_value_of_all: float | None = None
        self._groups = TrialGroups(self)

    def close(self) -> None:
        """Free the cached activations and the copies of the model."""
        if self._cache is not None:
            self._cache.close()
        self._groups = TrialGroups(self)

    def run(self, fault: Fault, trial: int) -> Row:
        """Run one trial: the fault pattern and the images of (seed, trial).

        Raises:
            DetectedError: a forward pass raised an error because of the fault, and the measurement
                excludes such trials.
            Exception: an error of the model without faults, or of the metric.
        """
        stacked = self._groups.stacked_for(fault)
        if stacked is None:
            found = self.run_single(fault, trial)
        else:
            (found,) = self._groups.run(stacked, fault, [trial])
        if isinstance(found, DetectedError):
            raise found
        return found

    def can_group(self, fault: Fault) -> bool:
        """Whether trials of a fault run in groups, as the policy wants."""
        return self._groups.stacked_for(fault) is not None

    def fill_cache(self) -> None:
        """Compute the cached activations now, and not only after some trials."""
        if self._trials_before_cache is not None:
            self._trials_before_cache = None
            self._cache = self._prefix_cache()

    def run_many(
        self,
        fault: Fault,
        trials: Sequence[int],
        begin: Callable[[int], None] = lambda trial: None,
    ) -> Iterator[Row | DetectedError]:
        """Yield the row of each trial in order, the same as from `run`.

        A trial that `run` excludes yields the error. Trials run in groups, if the policy says so
        and the model allows it.

        Args:
            fault: the fault of the trials.
            trials: their numbers.
            begin: called with the number of each trial before it runs, and with
                `proact.campaign.trial_groups.SEVERAL_TRIALS` before a pass of several trials.

        Raises:
            Exception: an error of the model without faults, or of the metric.
        """
        stacked = self._groups.stacked_for(fault)
        if stacked is not None:
            yield from self._groups.run(stacked, fault, trials, begin)
            return
        for trial in trials:
            begin(trial)
            try:
                yield self.run(fault, trial)
            except DetectedError as error:
                yield error

    def run_single(self, fault: Fault, trial: int) -> Row | DetectedError:
        """Run one trial by passes of its own, and return its row or the error that excludes it."""
        if self._trials_before_cache == 0:
            self.fill_cache()
        start = time.perf_counter()
        units = self.units(fault, trial)
        clean = self.clean.at(units)
        raised: list[tuple[EvaluatedBatch, Exception]] = []
        with self.injector.trial(fault, self.seed, trial) as record, torch.inference_mode():
            # The clean results hold if no stored number is read wrong: nothing flipped, or the code
            # corrected it. Flips in activations come later.
            if not record.changed and not isinstance(fault, ActivationFlip):
                return row_of(trial, record.flips, self.clean_score(units, clean), 0.0)
            batches = self._outputs(units, fault, record, raised)
            score, _ = scored(self.measurement, batches, clean, self.clean_value(units, clean))
            flips = record.flips  # last, so that a GPU gets its work first
        self._refuse_own_errors(raised)
        if raised and self.measurement.on_error == "exclude":
            _, error = raised[0]
            excluded = DetectedError(f"{type(error).__name__}: {error}", trial)
            excluded.__cause__ = error
            return excluded
        if self._trials_before_cache is not None:
            self._trials_before_cache -= 1
        return row_of(trial, flips, score, time.perf_counter() - start)

    def image_values(self, fault: Fault, trial: int) -> tuple[Tensor, Tensor]:
        """Return the metric of each image of a trial, (m,) float64, under faults and clean."""
        units = self.units(fault, trial)
        clean = self.clean.at(units)
        with self.injector.trial(fault, self.seed, trial) as record, torch.inference_mode():
            batches = self._outputs(units, fault, record, [])
            _, values = scored(self.measurement, batches, clean)
        assert values is not None
        assert clean.values is not None
        return values, clean.values

    def batches(self, units: Tensor | None) -> list[EvaluatedBatch]:
        """Return the batches of a trial; None takes all samples."""
        return list(self.measurement.batches(units, self.policy))

    def units(self, fault: Fault, trial: int) -> Tensor | None:
        """The samples, or the fixed batches, that a trial draws.

        Samples are on the device of the data, and numbers of batches on the CPU, which reads them.
        """
        images, data = self.policy.images, self.measurement.data
        if images is None:
            return None
        units = max(images * data.units // len(data), 1)
        # Strata of one cell have images of their own, so that their means are independent.
        seed = fault.seed(self.seed) if isinstance(fault, BitFlipStratum) else self.seed
        numbers = drawn_units(seed, trial, data.units, units)
        if data.batch_sizes is not None:
            return torch.tensor(numbers, device="cpu")
        # Without a wait for a GPU: memory that is not pinned has been read when the call returns.
        return torch.tensor(numbers).to(data.device, non_blocking=True)

    def _outputs(
        self,
        units: Tensor | None,
        fault: Fault,
        record: Record,
        raised: list[tuple[EvaluatedBatch, Exception]],
    ) -> Iterator[tuple[EvaluatedBatch, Any]]:
        """Yield each batch of a trial with its output; collects errors in ``raised``."""
        batches = self.measurement.batches(units, self.policy)
        if self._cache is not None and not isinstance(fault, ActivationFlip):
            outputs = self._cached_outputs(record)
            if outputs is not None:
                start = 0
                for batch in batches:
                    yield batch, outputs[start : start + batch.samples]
                    start += batch.samples
                return
        for batch in batches:
            output: Any
            try:
                output = self.measurement.output(self.model, batch.inputs)
            except (MemoryError, torch.OutOfMemoryError, UnhitActivationError):
                raise  # of the machine or of the fault model; that is no answer of the model
            except Exception as error:
                # Whether the fault is the cause is checked when it has been removed.
                raised.append((batch, error))
                output = Raised(error)
            yield batch, output

    def _cached_outputs(self, record: Record) -> Tensor | None:
        """The outputs from the last usable cut on; None if the model raises under the faults."""
        assert self._cache is not None
        try:
            return self._cache.outputs(record.changed)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:
            return None  # the batches run one by one, and each error is noted

    def _refuse_own_errors(self, raised: list[tuple[EvaluatedBatch, Exception]]) -> None:
        """Raise the error of a batch on which the model raises without faults too."""
        # One batch tells enough of a trial that is excluded.
        for batch, _ in raised[:1] if self.measurement.on_error == "exclude" else raised:
            with torch.inference_mode():
                self.measurement.output(self.model, batch.inputs)

    def clean_value(self, units: Tensor | None, clean: CleanResults) -> float | None:
        """The clean value of a metric of whole trials; None for other metrics."""
        metric = self.measurement.metric
        if not metric.of_trial:
            return None
        if units is None and self._clean_value_of_all is not None:
            return self._clean_value_of_all
        batches = self.batches(units)
        outputs = clean.batch_outputs(batch.samples for batch in batches)
        value = metric.of_batches(outputs, [batch.targets for batch in batches], outputs)
        if units is None:
            self._clean_value_of_all = value
        return value

    def clean_score(self, units: Tensor | None, clean: CleanResults) -> Score:
        value = self.clean_value(units, clean)
        if value is None:
            assert clean.values is not None
            value = clean.values.mean().item()
        return Score(value, value, clean.counts, len(clean.columns))

    def _prefix_cache(self) -> MultiCutCache | None:
        """Cached activations, for inputs that are one tensor and the same in each trial."""
        inputs, metric = self.measurement.data.inputs, self.measurement.metric
        # Cached passes do not go through the measurement, which sets the modes of torch.
        is_usual = self.measurement.fast_path and self.measurement.inference
        is_plain = is_usual and self.measurement.forward == Forward() and metric.reads_logits
        if not (self.prefix_cache and self.policy.images is None and is_plain):
            return None
        if not isinstance(inputs, Tensor):
            return None
        budget = MemoryBudget(self.cache_bytes)
        cache = MultiCutCache(self.model, laid_out(inputs, self.policy), budget, self.policy.batch)
        return cache if cache.cuts else None
