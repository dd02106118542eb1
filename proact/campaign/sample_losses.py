"""Losses of a model on some samples, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proact.data import Split
from proact.data.dataset import stratified_subset
from proact.nn.batches import Batch, cloned
from proact.nn.forward import Forward, described
from proact.nn.guard_hooks import remove_error_correction, remove_weight_range
from proact.nn.module_copy import copy_model
from proact.nn.tensor_inventory import stored_tensors
from proact.nn.written_state import restored

#: Maps (logits, targets) to one loss of at least 0 for each sample, (samples,).
SampleLoss = Callable[[Tensor, Batch], Tensor]

_BATCH = 256
#: The target of tokens and pixels that do not count.
_IGNORED = -100
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class SampleLosses:
    """The losses of models on some samples.

    Args:
        model: without faults, in eval mode; its predictions stand for missing targets.
        split: at most ``samples`` of it are used, the same share of every class; all of fixed
            batches.
        samples: a number of at least 1.
        forward: runs a model.
        loss: see `SampleLoss`; None takes the cross-entropy of classes, averaged over the tokens or
            pixels of a sample.
        one_by_one: whether each batch holds one sample (or is a fixed one).

    Raises:
        ValueError: outputs and targets that the cross-entropy does not fit, or a loss of another
            shape.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        samples: int,
        forward: Forward,
        loss: SampleLoss | None = None,
        one_by_one: bool = False,
    ) -> None:
        self._forward, self._loss = forward, loss or _cross_entropy
        split = split.to(next(iter(stored_tensors(model))).tensor.device)
        if split.batch_sizes is None:
            split = split.take(stratified_subset(split, samples))
        self._batches: list[tuple[Batch, Batch]] = []
        parts = [split]
        if one_by_one and split.batch_sizes is None:
            parts = [split.take(torch.tensor([number])) for number in range(len(split))]
        for inputs, targets in (each for part in parts for each in part.batches(_BATCH)):
            with torch.no_grad(), restored(model):
                logits = self._logits(model, inputs)
            self._batches.append((inputs, _predicted(logits) if targets is None else targets))
        with torch.no_grad():
            least = min(float(losses.min()) for losses in self.of(model))
        if least < 0.0:
            raise ValueError(f"loss: expected losses of at least 0, got {least:g} without faults")

    def of(self, model: nn.Module) -> Iterator[Tensor]:
        """The losses of the samples, batch by batch: (samples,) each.

        State that the model writes is put back when the next batch is asked for, so that a gradient
        can be computed before.
        """
        for inputs, targets in self._batches:
            with restored(model):
                losses = self._loss(self._logits(model, inputs), targets)
                if not isinstance(losses, Tensor) or losses.dim() != 1:
                    is_tensor = isinstance(losses, Tensor)
                    given = tuple(losses.shape) if is_tensor else type(losses).__name__
                    raise ValueError(
                        f"loss: expected one value for each sample, (samples,), got {given}"
                    )
                yield losses

    def _logits(self, model: nn.Module, inputs: Batch) -> Tensor:
        return self._forward.logits(model, cloned(inputs))

    def harm(self, model: nn.Module) -> float:
        """The mean over the samples of 1 - exp(-loss), in [0, 1]; NaN counts as 1."""
        with torch.no_grad():
            losses = torch.cat([each.double() for each in self.of(model)])
        return float((-torch.expm1(-losses)).nan_to_num(1.0).mean())


class LossGradients:
    """Gradients of the losses of a model that has other values than those stored.

    Args:
        model: copied without its guards, which write to memory before each forward pass.
        losses: on the samples.
    """

    def __init__(self, model: nn.Module, losses: SampleLosses) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("gradients cannot be computed inside torch.inference_mode")
        self._model, self._losses = copy_model(model).eval(), losses
        for module in list(self._model.modules()):
            remove_error_correction(module)
            remove_weight_range(module)
        self._model.requires_grad_(False)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        self._stored = {stored.name: stored.tensor for stored in stored_tensors(self._model)}
        self._leaves = {
            stored.name: parameters[own].requires_grad_(True)
            for stored in stored_tensors(self._model)
            for own in stored.names[:1]
            if own in parameters and parameters[own].is_floating_point()
        }

    def at(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradients of the summed loss; arguments and errors are those of `each`."""
        sums: dict[str, Tensor] = {}
        for gradients in self.each(values):
            for name, gradient in gradients.items():
                sums[name] = sums[name] + gradient if name in sums else gradient
        return sums

    def each(self, values: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The gradients of the loss of each batch, where the stored tensors have ``values``.

        Tensors without a gradient are left out; infinity and NaN count as 0.

        Raises:
            ValueError: no tensor has a gradient.
        """
        with torch.no_grad():
            for name, tensor in self._stored.items():
                tensor.copy_(values[name])
        leaves = list(self._leaves.values())
        has_gradient = False
        for found in self._found(leaves):
            gradients = {n: g for n, g in zip(self._leaves, found, strict=True) if g is not None}
            gradients.update(self._of_statistics(gradients))
            has_gradient = has_gradient or bool(gradients)
            yield {name: each.nan_to_num(0.0, 0.0, 0.0) for name, each in gradients.items()}
        if not has_gradient:
            raise ValueError(
                f"no gradient of the loss reaches the parameters of {type(self._model).__name__}: "
                "a model is needed that has floating-point parameters and runs without "
                "torch.no_grad"
            )

    # As a decorator it leaves the caller's mode alone between two batches.
    @torch.enable_grad()
    def _found(self, leaves: Sequence[Tensor]) -> Iterator[tuple[Tensor | None, ...]]:
        for losses in self._losses.of(self._model):
            if losses.requires_grad:
                yield torch.autograd.grad(losses.sum(), leaves, allow_unused=True)

    def _of_statistics(self, gradients: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The gradients of running means m and variances v of batch normalisation.

        With y = w (x - m) / s + b and s^2 = v + eps, the chain rule gives dL/dm = -w/s dL/db and
        dL/dv = -w / (2 s^2) dL/dw. PyTorch does not compute them.
        """
        for prefix, module in self._model.named_modules():
            weight, bias = (gradients.get(f"{prefix}.{own}") for own in ("weight", "bias"))
            variance = getattr(module, "running_var", None)
            is_normalisation = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if not is_normalisation or variance is None or weight is None or bias is None:
                continue
            squared = variance + module.eps
            yield f"{prefix}.running_mean", -module.weight.detach() / squared.sqrt() * bias
            yield f"{prefix}.running_var", -module.weight.detach() / (2.0 * squared) * weight


def _predicted(logits: Tensor) -> Tensor:
    """The predicted classes, (samples,), of logits (samples, classes)."""
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            "data: expected targets, got inputs alone; without targets the model must return "
            "logits (samples, classes), whose predictions then serve as targets, got outputs "
            f"{tuple(logits.shape)}"
        )
    return logits.argmax(1)


def _cross_entropy(logits: Tensor, targets: Batch) -> Tensor:
    """The cross-entropy of each sample, (samples,), averaged over its tokens or pixels."""
    is_integer = isinstance(targets, Tensor) and targets.dtype in _INTEGERS
    if is_integer and logits.dim() >= 2:
        assert isinstance(targets, Tensor)
        labels = targets.long()
        classes_last = logits.dim() > 2 and logits.shape[:-1] == labels.shape
        scores = logits.movedim(-1, 1) if classes_last else logits
        counted = labels != _IGNORED
        classes = scores.shape[1]
        are_classes = bool(((labels >= 0) & (labels < classes) | ~counted).all())
        if scores.shape[:1] + scores.shape[2:] == labels.shape and classes > 1 and are_classes:
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            losses = F.cross_entropy(scores, labels, reduction="none").reshape(len(labels), -1)
            return losses.sum(1) / counted.view(len(labels), -1).sum(1).clamp(min=1)
    raise ValueError(
        "expected logits (samples, classes) and class labels; got logits "
        f"{tuple(logits.shape)} and {described(targets)}: give loss=, a function of (logits, "
        "targets) that returns one value for each sample"
    )
