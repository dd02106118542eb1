"""`Objective`: how a model runs, and how its outputs are judged, while it is protected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.data import Split
from proact.models.evaluation import check_fit, refuse_masked, run_checked
from proact.nn.batches import Batch, cloned, samples_in
from proact.nn.forward import DEFAULT, Forward, described, logits_of
from proact.nn.written_state import restored

#: Maps (logits, targets) of m samples to a mean, (), or to one value a sample, (m,).
Loss: TypeAlias = Callable[[Tensor, Batch], Tensor]
#: Maps (logits, targets) of m samples to one value a sample, (m,), in [0, 1]; 1 is best.
SampleMetric: TypeAlias = Callable[[Tensor, Batch], Tensor]

_BATCH = 512
IGNORED = -100  # torch's cross-entropy leaves out such targets


@dataclass(frozen=True)
class Objective:
    """How a model runs, and how its logits are judged.

    Attributes:
        forward: runs the model; its logits are what loss and metric get.
        loss: of training, lower is better; None for the cross-entropy of classes.
        metric: of validation, higher is better; None for top-1.
    """

    forward: Forward = DEFAULT
    loss: Loss | None = None
    metric: SampleMetric | None = None

    def __post_init__(self) -> None:
        for name, function in (("loss", self.loss), ("metric", self.metric)):
            if function is not None and not callable(function):
                raise TypeError(
                    f"{name}: expected a function of (logits, targets), got "
                    f"{type(function).__name__}"
                )

    def class_logits(self, model: nn.Module, inputs: Batch) -> Tensor | None:
        """The logits in eval mode if they are (samples, classes), else None.

        Raises:
            ValueError: ``model`` does not take the inputs.
        """
        output = run_checked(model, inputs, forward=self.forward)
        try:
            logits = logits_of(output)
        except TypeError:
            return None
        return logits if logits.dim() == 2 and logits.shape[1] > 1 else None

    def losses(self, logits: Tensor, targets: Batch) -> Tensor:
        """The loss, summed over the samples.

        Raises:
            ValueError: the loss function returned another shape.
        """
        if self.loss is None:
            return F.cross_entropy(logits, targets, reduction="sum")
        loss = self.loss(logits, targets)
        samples = len(logits)
        if isinstance(loss, Tensor) and loss.shape == ():
            return loss * samples
        if isinstance(loss, Tensor) and loss.shape == (samples,):
            return loss.sum()
        given = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"loss: expected the mean (), or one value a sample ({samples},), got {given}"
        )

    def values(self, logits: Tensor, targets: Batch) -> Tensor:
        """The metric of each sample, (m,) float64; NaN counts as 0.

        Logits of NaN or infinity count as wrong in the metric of classes, `token_accuracy` and
        `pixel_accuracy`, as in campaigns. Another metric decides for itself.

        Raises:
            ValueError: the metric returned another shape, or values outside [0, 1].
        """
        if self.metric is None:
            right: Tensor = (logits.argmax(1) == targets) & torch.isfinite(logits).all(1)
            return right.double()
        values = self.metric(logits, targets)
        samples = len(logits)
        if not isinstance(values, Tensor) or values.shape != (samples,):
            given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"metric: expected one value a sample, ({samples},), got {given}")
        values = values.double().nan_to_num(0.0)
        if values.min() < 0.0 or values.max() > 1.0:
            raise ValueError(
                f"metric: expected values in [0, 1], where 1 is best, got "
                f"{float(values.min()):g} to {float(values.max()):g}"
            )
        return values

    def mean(self, model: nn.Module, split: Split) -> float:
        """The mean metric over a split, in [0, 1], in the model's current mode.

        State that a forward pass writes is put back after each batch.
        """
        total = 0.0
        with torch.no_grad():
            for inputs, targets in split.batches(_BATCH):
                with restored(model):
                    logits = self.forward.logits(model, cloned(inputs))
                    total += float(self.values(logits, targets).sum())
        return total / len(split)

    def check(self, model: nn.Module, split: Split, method: str, trains: bool) -> None:
        """Check that loss and metric fit the model's outputs and the targets.

        Args:
            model: runs in eval mode on the first samples.
            split: the samples.
            method: the name of the method, for error messages.
            trains: whether the method needs a loss.

        Raises:
            ValueError: the model does not take the inputs; no targets; outputs that need a loss
                and a metric of the user's; a loss or metric that returns another shape or NaN.
            TypeError: an output without logits.
        """
        if split.targets is None:
            raise ValueError(
                f"data: {method} needs targets beside the inputs, as a pair (inputs, targets); "
                "ranger and weight-range work without targets"
            )
        if split.batch_sizes is not None:
            raise ValueError(
                f"data: {method} takes samples of one shape, because it draws them in another "
                "order, and got fixed batches: pad the samples to one shape"
            )
        self.check_values(model, split, method, trains)

    def check_values(self, model: nn.Module, split: Split, what: str, trains: bool = False) -> None:
        """Check that loss and metric fit the outputs and the targets of the first samples.

        The arguments and errors are those of `check`, for what the errors name as ``what``.
        """
        if split.targets is None and self.metric is None:
            raise ValueError(f"data: {what} needs targets beside the inputs, or metric=")
        inputs, targets = next(split.first(2).batches(2))
        logits = logits_of(run_checked(model, inputs, forward=self.forward))
        labels = split.class_labels
        wanted = [("loss", self.loss)] if trains else []
        missing = [name for name, given in [*wanted, ("metric", self.metric)] if given is None]
        if missing and (labels is None or logits.dim() != 2):
            kind = f" {targets.dtype}" if isinstance(targets, Tensor) else ""
            functions = "a function" if len(missing) == 1 else "functions"
            flags = {"loss": "--loss", "metric": "--validation-metric"}
            raise ValueError(
                f"{what} judges outputs (samples, classes) by class labels (samples,) int64 of "
                f"at least 0; the model gives {tuple(logits.shape)} and the targets are "
                f"{described(targets)}{kind}: give "
                f"{' and '.join(f'{name}=' for name in missing)} (on the command line "
                f"{' and '.join(flags[name] for name in missing)}), {functions} of (logits, "
                "targets)"
            )
        if missing and labels is not None:
            check_fit(logits, labels)
            refuse_masked(logits, what, type(model).__name__)
        for metric, dimension in ((token_accuracy, -1), (pixel_accuracy, 1)):
            if self.metric is metric and logits.dim() > 2:
                refuse_masked(logits.movedim(dimension, -1), what, type(model).__name__)
        samples = samples_in(inputs if targets is None else targets, "the targets")
        if samples_in(logits, "the model's output") != samples:
            raise ValueError(
                f"expected one output for each of {samples} samples, got logits of "
                f"shape {tuple(logits.shape)}"
            )
        self.values(logits, targets)
        if trains and not torch.isfinite(self.losses(logits, targets)):
            raise ValueError(
                "loss: expected a finite loss of the unprotected model on the first training "
                "samples, got NaN or infinity"
            )


#: Judges logits (samples, classes) by class labels.
CLASSES = Objective()


def class_dimension(logits: Tensor, targets: Batch | None) -> int | None:
    """The dimension of ``logits`` that counts classes, or None if it cannot be told.

    It is 1 in (samples, classes, ...) for targets (samples, ...), as in segmentation, and the last
    one in (samples, tokens, classes) for targets (samples, tokens).
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    places = []
    for dimension in {1, logits.dim() - 1}:
        if logits.dim() >= 2:
            rest = [size for d, size in enumerate(logits.shape) if d != dimension]
            if rest == list(targets.shape):
                places.append(dimension)
    return places[0] if len(places) == 1 else None


def soft_cross_entropy(logits: Tensor, targets: Batch, teacher: Tensor, dimension: int) -> Tensor:
    """The cross-entropy to probabilities, summed over samples and averaged over places in them.

    Args:
        logits: with the classes in ``dimension``.
        targets: integers, one for each place; places with -100 do not count.
        teacher: probabilities in the shape of ``logits``.
        dimension: as `class_dimension` gives it.
    """
    if logits.dim() == 2:
        return F.cross_entropy(logits, teacher, reduction="sum")
    entropy = -(logits.float().log_softmax(dimension) * teacher).sum(dimension)
    counted = targets != IGNORED
    entropy = torch.where(counted, entropy, 0.0).flatten(1).sum(1)
    total: Tensor = (entropy / counted.flatten(1).sum(1).clamp(min=1)).sum()
    return total


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each sample, (samples,), averaged over its tokens.

    Args:
        logits: (samples, tokens, classes).
        targets: (samples, tokens) int64. The target at a position is compared with the logits at
            the same position, so a language model needs targets that are shifted by one token.
            Targets of -100 do not count. A sample without another target has a loss of 0.
    """
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    counted = targets != IGNORED
    return losses.sum(1) / counted.sum(1).clamp(min=1)


def token_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The share of the tokens of each sample with the right prediction, (samples,), in [0, 1].

    As in campaigns, a token whose logits hold NaN or infinity counts as wrong.

    Args:
        logits: (samples, tokens, classes).
        targets: (samples, tokens) int64, as for `token_cross_entropy`. Targets of -100 do not
            count. A sample without another target has a share of 0.
    """
    counted = targets != IGNORED
    right = (logits.argmax(2) == targets) & torch.isfinite(logits).all(2) & counted
    return right.sum(1) / counted.sum(1).clamp(min=1)


def pixel_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The share of the places of each sample with the right class, (samples,), in [0, 1].

    A place whose logits hold NaN or infinity counts as wrong.

    Args:
        logits: (samples, classes, height, width), or any other dimensions behind the classes.
        targets: (samples, height, width) int64; -100 does not count. A sample without another
            target has a share of 0.
    """
    counted = targets != IGNORED
    right = (logits.argmax(1) == targets) & torch.isfinite(logits).all(1) & counted
    return right.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
