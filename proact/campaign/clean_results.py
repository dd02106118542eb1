"""The results of a model without faults, with which the results of trials are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from proact.campaign.counts import Counts, counts_from, finite_rows, reference_of
from proact.campaign.measurement import Measurement
from proact.campaign.metrics import Metric
from proact.campaign.validation import check_measurement, check_outputs
from proact.data import Split
from proact.data.split import content
from proact.nn.batches import concatenated, map_leaves, samples_in, take
from proact.nn.forward import Forward
from proact.nn.model_kinds import refuse_lazy
from proact.nn.outputs import output_tensors
from proact.nn.site import eval_mode
from proact.results.policy import Policy

_BATCH = 64


@dataclass(frozen=True, eq=False)
class CleanResults:
    """The results of a model without faults on some units, in their order.

    Attributes:
        columns: (n, k) float64, see `proact.campaign.counts`.
        values: the metric of each sample, (n,) float64; None for a metric of whole trials.
        reference: (n, 3), see `proact.campaign.counts.reference_of`; (n, 1), see `finite_rows`, if
            the outputs are not logits of classes.
        outputs: the outputs if the metric needs them, else None: a tree for all samples, or a list
            with the tree of each fixed batch.
        sizes: the number of samples of each fixed batch; None without fixed batches.
        digest: SHA-256 of predictions, or of the mean output in three digits, in hexadecimal.
    """

    columns: Tensor
    values: Tensor | None
    reference: Tensor
    outputs: Any
    sizes: tuple[int, ...] | None
    digest: str

    def at(self, units: Tensor | None) -> CleanResults:
        """Return the results of the given units, (m,) int64; None takes all."""
        if units is None:
            return self
        samples, sizes, outputs = units, self.sizes, self.outputs
        if sizes is not None:
            ends = torch.tensor(sizes).cumsum(0).tolist()
            chosen = units.tolist()
            samples = torch.cat([torch.arange(ends[u] - sizes[u], ends[u]) for u in chosen])
            samples = samples.to(self.columns.device, non_blocking=True)
            outputs = None if outputs is None else [outputs[u] for u in chosen]
            sizes = tuple(sizes[u] for u in chosen)
        elif outputs is not None:
            outputs = take(outputs, units)

        def of(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, samples)

        values = None if self.values is None else of(self.values)
        return CleanResults(
            of(self.columns), values, of(self.reference), outputs, sizes, self.digest
        )

    def output(self, number: int, part: slice) -> Any:
        """Return the output of batch ``number``, which holds the samples of ``part``."""
        if self.outputs is None:
            return None
        return take(self.outputs, part) if self.sizes is None else self.outputs[number]

    def batch_outputs(self, sizes: Iterable[int]) -> list[Any]:
        """Return the outputs in batches of the given numbers of samples."""
        found, start = [], 0
        for number, size in enumerate(sizes):
            found.append(self.output(number, slice(start, start + size)))
            start += size
        return found

    def value(self, measurement: Measurement, policy: Policy) -> float:
        """Return the metric of all samples of ``measurement``, to which the results belong."""
        if self.values is not None:
            return self.values.mean().item()
        batches = list(measurement.batches(None, policy))
        outputs = self.batch_outputs(batch.samples for batch in batches)
        targets = [batch.targets for batch in batches]
        return measurement.metric.of_batches(outputs, targets, outputs)

    @property
    def counts(self) -> Counts:
        """The counts over the samples."""
        return counts_from(self.columns.sum(0).tolist(), len(self.columns))


def clean_results(measurement: Measurement, model: nn.Module, policy: Policy) -> CleanResults:
    """Run a model in eval mode without faults on all samples."""
    metric, data = measurement.metric, measurement.data
    parts: list[tuple[Tensor, Tensor | None, Tensor]] = []
    outputs: list[Any] = []
    digest = _OutputDigest()
    is_classes: bool | None = None
    start = 0
    with torch.inference_mode():
        for inputs, targets, samples in measurement.batches(None, policy):
            output = measurement.output(model, inputs)
            if is_classes is None:
                is_classes = measurement.is_classes(output)
            part = slice(start, start + samples)
            reference = reference_of(output) if is_classes else finite_rows(output, samples)
            columns = measurement.columns(output, targets, samples, reference)
            parts.append((columns, measurement.values(output, targets, output, columns), reference))
            digest.add(output, is_classes)
            if metric.needs_clean or metric.of_trial:
                outputs.append(output)
            start = part.stop
    values = [value for _, value, _ in parts if value is not None]
    kept: Any = outputs or None
    if outputs and data.batch_sizes is None:
        try:
            kept = map_leaves(_divisible, concatenated(outputs))
            if (rows := samples_in(kept, "outputs")) != len(data):
                raise ValueError(f"they have {rows} rows for {len(data)} samples")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the outputs cannot be divided into samples ({error}): use unit='batch', or "
                "choose a part of the output with output="
            ) from None
    return CleanResults(
        torch.cat([columns for columns, _, _ in parts]),
        torch.cat(values) if values else None,
        torch.cat([reference for _, _, reference in parts]),
        kept,
        data.batch_sizes,
        digest.hexdigest(),
    )


def check_clean_value(
    model: nn.Module, data: Split, metric: Metric, forward: Forward | None = None
) -> None:
    """Check that a model runs on the samples, and that the metric takes outputs and targets.

    The model runs in eval mode on two samples or one fixed batch.

    Raises:
        ValueError: one of them does not fit the others.
    """
    refuse_lazy(model)
    measurement = Measurement(data, metric, forward or Forward())
    check_measurement(measurement)
    with eval_mode(model):
        check_outputs({type(model).__name__: model}, measurement)


def clean_value(
    model: nn.Module, data: Split, metric: Metric, forward: Forward | None = None
) -> float:
    """Return a metric of a model in eval mode on all samples, without faults."""
    # A model that differentiates inside its forward pass does not run in inference mode.
    measurement = Measurement(data, metric, forward or Forward(), inference=False)
    policy = Policy(None, _BATCH, False)
    return clean_results(measurement, model, policy).value(measurement, policy)


class _Undivided:
    """Stands in golden outputs for an object whose tensors cannot be divided into samples."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle and copy ask for these
            raise AttributeError(name)
        raise ValueError(
            f"the golden output holds an object of type {self._kind}, whose tensors cannot be "
            "divided into samples: choose a part of the output with output=, or give unit='batch'"
        )

    def __getitem__(self, key: Any) -> Any:
        return self.__getattr__("items")


def _divisible(leaf: Any) -> Any:
    hides_rows = not isinstance(leaf, (Tensor, list)) and bool(output_tensors(leaf))
    return _Undivided(type(leaf).__name__) if hides_rows else leaf


class _OutputDigest:
    """Digests golden outputs: predicted classes, or else their mean in three digits.

    Last digits differ between machines, so they do not enter.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._sum, self._count = 0.0, 0

    def add(self, output: Any, is_classes: bool) -> None:
        if is_classes:
            self._digest.update(content(output.argmax(1)))
            return
        for tensor in output_tensors(output):
            if tensor.is_floating_point():
                self._sum += float(tensor.sum(dtype=torch.float64))
                self._count += tensor.numel()

    def hexdigest(self) -> str:
        if self._count:
            self._digest.update(f"{self._sum / self._count:.3g}".encode())
        return self._digest.hexdigest()
