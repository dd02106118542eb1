"""What a campaign measures: the samples, the metric, and how a batch enters a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from proact.campaign.built_in_metrics import is_of_classes
from proact.campaign.counts import class_columns, class_values, other_columns
from proact.campaign.identity import laid_out
from proact.campaign.metrics import Metric
from proact.data import Split
from proact.nn.batches import Batch, cloned, samples_in
from proact.nn.forward import Forward, logits_of
from proact.nn.site import without_fast_path
from proact.nn.written_state import preserved, written_state
from proact.results.policy import Policy


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
        fast_path: whether torch's fused kernels for transformer layers may run. They are off in a
            campaign with faults in activations, in every pass: they leave out padded tokens.
        inference: whether models run in `torch.inference_mode`, the fastest mode. Those that
            differentiate inside their forward pass need `torch.no_grad` instead.
        on_error: ``"worst"`` counts a forward pass that raises an error under faults as wrong
            answers; ``"exclude"`` records the trial as failed.
    """

    data: Split
    metric: Metric
    forward: Forward = field(default_factory=Forward)
    on_error: str = "worst"
    state: str = "restore"
    fast_path: bool = True
    inference: bool = True

    def output(self, model: nn.Module, inputs: Batch) -> Any:
        """Run a model on a batch. It gets a copy, because some models write to their input.

        State that the forward pass writes is put back, if it was found (`proact.nn.written_state`).
        """
        with preserved(model):
            output = self.selected(self.raw(model, inputs))
            # The output may be state that is put back now.
            return cloned(output) if written_state(model) else output

    def raw(self, model: nn.Module, inputs: Batch) -> Any:
        """Run a model on a copy of a batch and return its whole output; written state stays."""
        with ExitStack() as modes:
            if not self.fast_path:
                modes.enter_context(without_fast_path())
            if not self.inference:
                modes.enter_context(torch.inference_mode(False))
                modes.enter_context(torch.no_grad())
            # Copies of tensors that were made in inference mode are ordinary ones here.
            return self.forward.raw(model, cloned(inputs))

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

    def columns(
        self, output: Any, targets: Batch | None, samples: int, reference: Tensor
    ) -> Tensor:
        """Return the addends of the counts of a batch, (samples, k) float64.

        Args:
            output: the part of the output that the metric gets.
            targets: the targets of the batch, or None.
            samples: the number of samples.
            reference: of the golden outputs of the batch, `proact.campaign.counts.reference_of`;
                `finite_rows` if outputs are not logits of classes.
        """
        if reference.shape[1] == 1:
            return other_columns(output, samples, reference)
        labels = targets if self.data.class_labels is not None else None
        return class_columns(output, labels, reference)

    def values(
        self, output: Any, targets: Batch | None, clean: Any, columns: Tensor
    ) -> Tensor | None:
        """Return the metric of each sample, (m,) float64; None for a metric of whole trials."""
        if self.metric.of_trial:
            return None
        if is_of_classes(self.metric):
            return class_values(columns, self.metric.name)
        return self.metric.of(output, targets, clean, len(columns)).to(columns.device)
