"""Rounds a model to an encoding and reports the error of rounding."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from proact.encodings import Encoding, encoding_named
from proact.faults.bounds import RoundedBounds, guards_of
from proact.faults.injection_plan import InjectionPlan, cache_plan
from proact.nn.module_copy import copy_model
from proact.nn.tensor_inventory import stored_tensors
from proact.ops.plan import checked_memory


def encode(model: nn.Module, encoding: str | Encoding) -> nn.Module:
    """Returns a copy of ``model`` whose parameters are rounded to the encoding.

    ``model`` is unchanged. Clean accuracy is the accuracy of the copy; `encoding_report` gives the
    error of rounding. Warns if parameters are out of the encoding's range and were saturated.

    Args:
        model: the model.
        encoding: the stored form of its parameters.

    Raises:
        TypeError, ValueError: an unknown encoding, a parameter that it cannot store, or bounds of
            weight-range that it stores with less precision than the values they bound.
    """
    encoding = encoding_named(encoding)
    result = copy_model(model)
    losses = _store(result, encoding)
    saturated = [loss for loss in losses if loss.saturated]
    if saturated:
        worst = max(saturated, key=lambda loss: loss.largest_error)
        warnings.warn(
            f"{sum(loss.saturated for loss in saturated)} of "
            f"{sum(loss.elements for loss in losses)} numbers are out of the range of "
            f"{encoding.name} and were saturated; the largest error is {worst.largest_error:.3g}, "
            f"in {worst.tensor}",
            stacklevel=2,
        )
    cache_plan(result, InjectionPlan(result, encoding))
    return result


@dataclass(frozen=True)
class TensorLoss:
    """The error of storing one tensor in an encoding.

    Attributes:
        tensor: its qualified name.
        word: the name of its stored form.
        elements: its number of elements.
        largest_error: the largest magnitude of stored minus original value.
        saturated: the number of elements that were out of range.
    """

    tensor: str
    word: str
    elements: int
    largest_error: float
    saturated: int


@dataclass(frozen=True)
class EncodingReport:
    """The error of storing a model in an encoding, without faults.

    Attributes:
        encoding: the encoding's name.
        accuracy_before, accuracy_after: the results of the given ``accuracy`` function for the
            original and the encoded model; None if no function was given.
        tensors: one `TensorLoss` for each stored tensor.
    """

    encoding: str
    accuracy_before: float | None
    accuracy_after: float | None
    tensors: tuple[TensorLoss, ...]

    @property
    def largest_error(self) -> float:
        """The largest magnitude of stored minus original value over all tensors."""
        return max(loss.largest_error for loss in self.tensors)

    @property
    def saturated(self) -> int:
        """The number of elements that were out of range."""
        return sum(loss.saturated for loss in self.tensors)

    def __str__(self) -> str:
        worst = max(self.tensors, key=lambda loss: loss.largest_error)
        text = f"{self.encoding}: largest rounding error {worst.largest_error:.3g} ({worst.tensor})"
        text += f", {self.saturated} of {sum(t.elements for t in self.tensors)} numbers saturated"
        if self.accuracy_before is not None and self.accuracy_after is not None:
            text += (
                f", accuracy {100 * self.accuracy_before:.2f} % before and "
                f"{100 * self.accuracy_after:.2f} % after"
            )
        return text


def encoding_report(
    model: nn.Module,
    encoding: str | Encoding,
    accuracy: Callable[[nn.Module], float] | None = None,
) -> EncodingReport:
    """Reports the error of storing ``model`` in the encoding; ``model`` is unchanged.

    Args:
        model: the model.
        encoding: the stored form of its parameters.
        accuracy: evaluates a model in eval mode, such as
            ``lambda model: proact.models.accuracy(model, data.test)``. It is called with a copy of
            ``model`` and with the encoded one. None leaves accuracy out.

    Raises:
        TypeError, ValueError: as `encode`.
    """
    encoding = encoding_named(encoding)
    encoded = copy_model(model)
    losses = _store(encoded, encoding)
    before = after = None
    if accuracy is not None:
        before = accuracy(copy_model(model).eval())
        after = accuracy(encoded.eval())
    return EncodingReport(encoding.name, before, after, losses)


def _store(model: nn.Module, encoding: Encoding) -> tuple[TensorLoss, ...]:
    """Rounds a model in place."""
    losses = []
    bounds = RoundedBounds(guards_of(model))
    with torch.no_grad():
        for stored in bounds.in_order(stored_tensors(model)):
            checked_memory(stored.name, stored.tensor)
            word = encoding.word(stored)
            rounded, tensor = word.rounded(bounds.unrounded(stored)), stored.tensor
            bounds.include(stored, rounded)
            bounds.check(stored, rounded)
            error, saturated = 0.0, 0
            if rounded is not tensor:
                saturated = int(word.saturates(tensor).sum())
                errors = (rounded.double() - tensor.double()).abs()
                error = float(torch.where(errors.isnan(), 0.0, errors).max())
                tensor.copy_(rounded)
            losses.append(TensorLoss(stored.name, word.name, tensor.numel(), error, saturated))
    return tuple(losses)
