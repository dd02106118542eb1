"""Score the outputs of a model: values of the metric and counts, with and without faults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from proact.campaign.built_in_metrics import is_of_classes
from proact.campaign.counts import (
    Counts,
    class_columns,
    class_values,
    counts_from,
    other_columns,
    raised_columns,
    reference_of,
)
from proact.campaign.identity import laid_out
from proact.campaign.metrics import Metric
from proact.data import Split
from proact.data.split import content
from proact.nn.batches import Batch, cloned, concatenated, samples_in, take, tensors_in
from proact.nn.forward import Forward, logits_of
from proact.nn.model_state import preserved
from proact.results.policy import Policy

_BATCH = 64


class EvaluatedBatch(NamedTuple):
    """A batch of evaluation samples.

    Attributes:
        inputs: what the model takes.
        targets: what the outputs are compared with, or None.
        samples: the number of samples.
    """

    inputs: Batch
    targets: Batch | None
    samples: int


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a campaign measures of a model.

    Attributes:
        data: the evaluation samples.
        metric: the quantity that is averaged.
        forward: how a batch enters the model, and which part of the output counts.
        state: ``"restore"`` puts state that a forward pass writes back; ``"keep"`` carries it on.
        on_error: ``"worst"`` counts a forward pass that raises an error under faults as wrong
            answers; ``"exclude"`` records the trial as failed.
    """

    data: Split
    metric: Metric
    forward: Forward = field(default_factory=Forward)
    on_error: str = "worst"
    state: str = "restore"

    def output(self, model: nn.Module, inputs: Batch) -> Any:
        """Run a model on a batch. It gets a copy, because some models write to their input.

        State that the forward pass writes is put back, if it was found (`proact.nn.model_state`).
        """
        with preserved(model):
            return self.selected(self.forward.raw(model, cloned(inputs)))

    def selected(self, output: Any) -> Any:
        """Return the part of an output that the metric gets."""
        output = self.forward.selected(output)
        return logits_of(output) if self.metric.reads_logits else output

    def batches(self, units: Tensor | None, policy: Policy) -> Iterator[EvaluatedBatch]:
        """Yield the batches of the given units; None takes all."""
        chosen = self.data if units is None else self.data.take(units)
        for inputs, targets in chosen.batches(policy.batch):
            yield EvaluatedBatch(laid_out(inputs, policy), targets, samples_in(inputs))

    def is_classes(self, output: Any) -> bool:
        """Whether outputs are logits of classes: by the metric, or by labels that fit them."""
        if is_of_classes(self.metric):
            return True
        labels = self.data.class_labels
        return (
            isinstance(output, Tensor)
            and output.dim() == 2
            and output.is_floating_point()
            and labels is not None
            and int(labels.max()) < output.shape[1]
        )


class Raised(NamedTuple):
    """Stands for the output of a forward pass that raised an error under faults."""

    error: Exception


class Score(NamedTuple):
    """The result of a trial.

    Attributes:
        value, clean: the metric with faults, and without faults on the same samples.
        counts: see `Counts`.
        samples: the number of samples.
    """

    value: float
    clean: float
    counts: Counts
    samples: int


@dataclass(frozen=True, eq=False)
class CleanResults:
    """The results of a model without faults on some units, in their order.

    Attributes:
        columns: (n, k) float64, see `proact.campaign.counts`.
        values: the metric of each sample, (n,) float64; None for a metric of whole trials.
        reference: (n, 3), see `proact.campaign.counts.reference_of`; None if the outputs are not
            logits of classes.
        outputs: the outputs if the metric needs them, else None: a tree for all samples, or a list
            with the tree of each fixed batch.
        sizes: the number of samples of each fixed batch; None without fixed batches.
        digest: SHA-256 of predictions, or of the mean output in three digits, in hexadecimal.
    """

    columns: Tensor
    values: Tensor | None
    reference: Tensor | None
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
            samples = samples.to(self.columns.device)
            outputs = None if outputs is None else [outputs[u] for u in chosen]
            sizes = tuple(sizes[u] for u in chosen)
        elif outputs is not None:
            outputs = take(outputs, units)

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.index_select(0, samples)

        columns = self.columns.index_select(0, samples)
        return CleanResults(
            columns, of(self.values), of(self.reference), outputs, sizes, self.digest
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
    parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
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
            reference = reference_of(output) if is_classes else None
            columns = _columns(measurement, output, targets, samples, reference)
            values = _values(metric, output, targets, output, columns)
            parts.append((columns, values, reference))
            digest.add(output, is_classes)
            if metric.needs_clean or metric.of_trial:
                outputs.append(output)
            start = part.stop
    found = [None if c[0] is None else torch.cat(c) for c in zip(*parts, strict=True)]
    kept: Any = outputs or None
    if outputs and data.batch_sizes is None:
        try:
            kept = concatenated(outputs)
            if (found_samples := samples_in(kept, "outputs")) != len(data):
                raise ValueError(f"they have {found_samples} rows for {len(data)} samples")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the outputs cannot be divided into samples ({error}): use unit='batch', or "
                "choose a part of the output with output="
            ) from None
    assert found[0] is not None
    return CleanResults(found[0], found[1], found[2], kept, data.batch_sizes, digest.hexdigest())


def clean_value(
    model: nn.Module, data: Split, metric: Metric, forward: Forward | None = None
) -> float:
    """Return a metric of a model in eval mode on all samples, without faults."""
    measurement = Measurement(data, metric, forward or Forward())
    policy = Policy(None, _BATCH, False)
    return clean_results(measurement, model, policy).value(measurement, policy)


def scored(
    measurement: Measurement,
    batches: Iterable[tuple[EvaluatedBatch, Any]],
    clean: CleanResults,
    clean_value: float | None = None,
) -> tuple[Score, Tensor | None]:
    """Score the outputs of a trial, one batch at a time.

    Args:
        measurement: holds the metric.
        batches: the batches of the trial, each with the output, which can be `Raised`.
        clean: the clean results of the same samples.
        clean_value: a metric of whole trials on these results, if it is known.

    Returns:
        The score, and the metric of each sample, (n,) float64; None for a metric of whole trials.
    """
    metric = measurement.metric
    columns: list[Tensor] = []
    values: list[Tensor | None] = []
    # For a metric of whole trials:
    outputs: list[Any] = []
    targets: list[Batch | None] = []
    sizes: list[int] = []
    start = raised = 0
    for number, (batch, output) in enumerate(batches):
        part = slice(start, start + batch.samples)
        start = part.stop
        sizes.append(batch.samples)
        targets.append(batch.targets)
        if isinstance(output, Raised):
            raised += batch.samples
            columns.append(raised_columns(batch.samples, clean.columns))
            values.append(clean.columns.new_full((batch.samples,), metric.worst_value))
            continue
        reference = None if clean.reference is None else clean.reference[part]
        mine = _columns(measurement, output, batch.targets, batch.samples, reference)
        expected = clean.output(number, part)
        columns.append(mine)
        values.append(_values(metric, output, batch.targets, expected, mine))
        if metric.of_trial:
            outputs.append(output)
    every = torch.cat(columns)
    if metric.of_trial:
        counts = counts_from(every.sum(0).tolist(), start, raised)
        kept = clean.batch_outputs(sizes)
        if clean_value is None:
            clean_value = metric.of_batches(kept, targets, kept)
        value = metric.worst_value if raised else metric.of_batches(outputs, targets, kept)
        return Score(value, clean_value, counts, start), None
    found = torch.cat([each for each in values if each is not None])
    assert clean.values is not None
    # One sum, and so one transfer from a GPU, for everything.
    sums = torch.cat((every, torch.stack((found, clean.values), 1)), 1).sum(0).tolist()
    counts = counts_from(sums[:-2], start, raised)
    return Score(sums[-2] / start, sums[-1] / start, counts, start), found


def _columns(
    measurement: Measurement,
    output: Any,
    targets: Batch | None,
    samples: int,
    reference: Tensor | None,
) -> Tensor:
    if reference is None:
        return other_columns(output, samples)
    labels = targets if measurement.data.class_labels is not None else None
    return class_columns(output, labels, reference)


def _values(
    metric: Metric, output: Any, targets: Batch | None, clean: Any, columns: Tensor
) -> Tensor | None:
    if metric.of_trial:
        return None
    if is_of_classes(metric):
        return class_values(columns, metric.name)
    return metric.of(output, targets, clean, len(columns)).to(columns.device)


class _OutputDigest:
    """Digests clean outputs: predicted classes, or else their mean in three digits.

    Last digits differ between machines, so they do not enter.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._sum, self._count = 0.0, 0

    def add(self, output: Any, is_classes: bool) -> None:
        if is_classes:
            self._digest.update(content(output.argmax(1)))
            return
        for tensor in tensors_in(output):
            if tensor.is_floating_point():
                self._sum += float(tensor.sum(dtype=torch.float64))
                self._count += tensor.numel()

    def hexdigest(self) -> str:
        if self._count:
            self._digest.update(f"{self._sum / self._count:.3g}".encode())
        return self._digest.hexdigest()
