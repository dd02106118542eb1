"""Run the trials of one variant."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from proact.campaign.evaluation import Evaluation, drawn_images
from proact.campaign.identity import laid_out
from proact.campaign.metrics import (
    Counts,
    Metric,
    count,
    count_non_finite,
    is_built_in,
    reference_of,
    value_from,
)
from proact.encodings import Encoding
from proact.faults import ActivationFlip, Fault, Injector
from proact.faults.record import Record
from proact.nn.forward import logits_of
from proact.nn.prefix_cache import MemoryBudget, MultiCutCache
from proact.results.policy import Policy
from proact.results.store import Row


@dataclass(frozen=True, eq=False)
class CleanOutputs:
    """The clean outputs of a model.

    Attributes:
        outputs: for all inputs, (n, ...).
        values: the metric of each input, (n,) float64.
    """

    outputs: Tensor
    values: Tensor


@dataclass(eq=False)
class TrialRunner:
    """Runs trials of one encoded model in eval mode.

    Attributes:
        model: the runner injects faults into it, and removes them after each trial.
        clean_outputs: on the device of the inputs, like all tensors here.
        seed: determines faults and images together with the trial number, in [0, 2^63).
        prefix_cache: whether trials with flips late in the model reuse cached activations.
        cache_bytes: memory budget of the cached activations, in bytes.
    """

    model: nn.Module
    encoding: Encoding
    data: Evaluation
    metric: Metric
    clean_outputs: CleanOutputs
    policy: Policy
    seed: int
    prefix_cache: bool = True
    cache_bytes: int = 0
    injector: Injector = field(init=False)

    def __post_init__(self) -> None:
        self.injector = Injector(self.model, self.encoding, is_private=True)
        # Cached activations are useless if the images change from trial to trial.
        self._cache: MultiCutCache | None = None
        if self.prefix_cache and self.policy.images is None:
            inputs, budget = laid_out(self.data.inputs, self.policy), MemoryBudget(self.cache_bytes)
            cache = MultiCutCache(self.model, inputs, budget, self.policy.batch)
            self._cache = cache if cache.cuts else None
        is_classes = are_classes(self.clean_outputs.outputs, self.data, self.metric)
        self._reference = reference_of(self.clean_outputs.outputs) if is_classes else None

    def close(self) -> None:
        """Free the cached activations."""
        if self._cache is not None:
            self._cache.close()

    def run(self, fault: Fault, trial: int) -> Row:
        """Run one trial: the fault pattern and the images of (seed, trial)."""
        start = time.perf_counter()
        chosen = self._image_numbers(trial)
        with self.injector.trial(fault, self.seed, trial) as record, torch.inference_mode():
            # Without flips the clean outputs hold, unless the fault hits activations.
            if record.flips == 0 and not isinstance(fault, ActivationFlip):
                return self._row(trial, 0, chosen, self._of(self.clean_outputs.outputs, chosen))
            output = self._outputs(chosen, fault, record)
            flips = record.flips
        with torch.inference_mode():
            row = self._row(trial, flips, chosen, output)
        return row._replace(seconds=time.perf_counter() - start)

    def image_values(self, fault: Fault, trial: int) -> tuple[Tensor, Tensor]:
        """Return the metric of each image of a trial, (m,) float64, under faults and clean."""
        chosen = self._image_numbers(trial)
        with self.injector.trial(fault, self.seed, trial) as record, torch.inference_mode():
            output = self._outputs(chosen, fault, record)
            targets = self._of(self.data.targets, chosen)
            clean = self._of(self.clean_outputs.outputs, chosen)
            values = self._of(self.clean_outputs.values, chosen)
            return self.metric.of(output, targets, clean), values

    def batches(self, chosen: Tensor | None) -> list[Tensor]:
        """Return the inputs of a trial in batches; None takes all inputs."""
        inputs = laid_out(self._of(self.data.inputs, chosen), self.policy)
        return list(inputs.split(self.policy.batch))

    def _image_numbers(self, trial: int) -> Tensor | None:
        images = self.policy.images
        if images is None:
            return None
        numbers = drawn_images(self.seed, trial, len(self.data), images)
        return torch.tensor(numbers, device=self.data.inputs.device)

    def _outputs(self, chosen: Tensor | None, fault: Fault, record: Record) -> Tensor:
        if self._cache is not None and not isinstance(fault, ActivationFlip):
            return self._cache.outputs(record.counts("tensor").keys())
        return outputs(self.model, self.batches(chosen))

    @staticmethod
    def _of(tensor: Tensor | None, chosen: Tensor | None) -> Tensor:
        # Only a metric that needs no targets runs on data without them.
        if tensor is None:
            return None  # type: ignore[return-value]
        return tensor if chosen is None else tensor.index_select(0, chosen)

    def _row(self, trial: int, flips: int, chosen: Tensor | None, output: Tensor) -> Row:
        images = len(output)
        targets = self._of(self.data.targets, chosen)
        clean_value = self._of(self.clean_outputs.values, chosen).mean().item()
        value: float | None = None
        if self._reference is None:
            counts = count_non_finite(output)
        else:
            labels = targets if self.data.labels is not None else None
            counts = count(output, labels, self._of(self._reference, chosen))
            value = value_from(counts, images, self.metric)
        if value is None:
            clean = self._of(self.clean_outputs.outputs, chosen)
            value = self.metric.of(output, targets, clean).mean().item()
        return Row(trial, flips, images, value, clean_value, *counts, seconds=0.0)


def outputs(model: nn.Module, batches: list[Tensor]) -> Tensor:
    """Run a model on batches. It receives copies, because some models write to their input."""
    parts = [logits_of(model(part.clone())) for part in batches]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def clean_outputs_of(
    model: nn.Module, data: Evaluation, metric: Metric, policy: Policy
) -> tuple[CleanOutputs, Counts]:
    """Compute the clean outputs of a model in eval mode, and their counts."""
    inputs = laid_out(data.inputs, policy)
    with torch.inference_mode():
        output = outputs(model, list(inputs.split(policy.batch)))
        values = metric.of(output, data.targets, output)
        if not are_classes(output, data, metric):
            return CleanOutputs(output.contiguous(), values), count_non_finite(output)
        return CleanOutputs(output.contiguous(), values), count(
            output, data.labels, reference_of(output)
        )


def are_classes(output: Tensor, data: Evaluation, metric: Metric) -> bool:
    """Whether outputs are logits of classes: by a built-in metric, or by labels that fit them."""
    if output.dim() != 2 or is_built_in(metric):
        return output.dim() == 2
    return data.labels is not None and int(data.labels.max()) < output.shape[1]
