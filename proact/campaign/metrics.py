"""Metrics: the quantities that campaigns average."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from proact.campaign.counts import COLUMNS_VERSION
from proact.models.code_digest import content_of
from proact.nn.batches import Batch
from proact.text import check_name, label, short_repr

#: Maps (outputs, targets, golden outputs) of a batch of m samples to one value per sample, (m,);
#: or, for a metric of whole trials, lists of these, one element per batch, to one number.
MetricFunction = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Metric:
    """The quantity that a cell averages: its mean, interval and margin are in this unit.

    Attributes:
        name: shown in tables, and part of the identity of a task.
        function: maps the outputs under faults, the targets (or None) and the golden outputs (those
            of the same model without faults) of a batch of m samples to one number per sample,
            (m,). It gets the outputs as the model returns them, or the part that ``output=``
            selects: tensors (m, ...), dicts, lists.
        lowest, highest: finite ends of the closed range of values. Values outside are clamped.
        worst: the value of a sample for which ``function`` gives NaN, or whose forward pass raised
            an error, in [lowest, highest]; ``lowest`` by default. If it equals ``highest``, as for
            errors, lower values are better.
        needs_targets: whether ``function`` reads its second argument.
        version: change it when the function changes its meaning. The source text of the function
            is part of the identity too, if Python can read it.
        needs_clean: whether ``function`` reads its third argument. Golden outputs are kept in
            memory only if it does, or if ``of_trial`` is set.
        of_trial: whether the value belongs to a whole trial and is no mean over samples, as for
            mean average precision. ``function`` then maps three lists, with one element per batch,
            to one number, and every trial uses all samples unless ``images_per_trial`` is given. A
            trial in which a forward pass raises an error has the value ``worst``.
        reads_logits: whether ``function`` gets the logits in an output
            (`proact.nn.forward.logits_of`) instead of the output.

    Raises:
        ValueError: a range that is empty or not finite, ``worst`` outside it, or a name that is
            empty or no Unicode text.
        TypeError: ``function`` is not callable, the name is no text, or ``lowest``, ``highest`` or
            ``worst`` is no number.
    """

    name: str
    function: MetricFunction
    lowest: float = 0.0
    highest: float = 1.0
    worst: float | None = None
    needs_targets: bool = True
    version: str = "1"
    needs_clean: bool = True
    of_trial: bool = False
    reads_logits: bool = False

    def __post_init__(self) -> None:
        check_name("a metric", self.name)
        for end in ("lowest", "highest", "worst"):
            value = getattr(self, end)
            if not isinstance(value, Real) and (end != "worst" or value is not None):
                raise TypeError(
                    f"expected a number as a metric's {end} value, got {short_repr(value)}"
                )
        if not -math.inf < self.lowest < self.highest < math.inf:
            raise ValueError(
                "expected a metric with a finite range [lowest, highest], got "
                f"[{short_repr(self.lowest)}, {short_repr(self.highest)}]"
            )
        if self.worst is not None and not self.lowest <= self.worst <= self.highest:
            raise ValueError(
                f"expected a metric's worst value in [{self.lowest:g}, {self.highest:g}], got "
                f"{short_repr(self.worst)}"
            )
        if not callable(self.function):
            raise TypeError(
                f"expected a callable as a metric's function, got {short_repr(self.function)}"
            )

    def of(self, output: Any, targets: Batch | None, clean: Any, samples: int) -> Tensor:
        """Evaluate the metric on a batch: (samples,) float64 in [lowest, highest].

        Raises:
            ValueError: the function returned another shape.
        """
        values = self.function(output, targets, clean)
        if not isinstance(values, Tensor) or values.shape != (samples,):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"expected one number per image, ({samples},), from the metric "
                f"{label(self.name)}, got {shape}"
            )
        values = values.to(torch.float64)
        return torch.where(values.isnan(), self.worst_value, values).clamp(
            self.lowest, self.highest
        )

    def of_batches(self, outputs: list[Any], targets: list[Any], clean: list[Any]) -> float:
        """Evaluate a metric of whole trials on all batches of a trial.

        Raises:
            ValueError: the function did not return a number.
        """
        value = self.function(outputs, targets, clean)
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"expected a number from the metric {label(self.name)}, got {type(value).__name__}"
            ) from None
        if math.isnan(number):
            return self.worst_value
        return min(max(number, self.lowest), self.highest)

    @property
    def worst_value(self) -> float:
        """The value of an output that is NaN or missing: ``worst``, or ``lowest`` without it."""
        return self.lowest if self.worst is None else self.worst

    @property
    def identity(self) -> str:
        """A text that distinguishes this metric from all others."""
        return (
            f"{self.name} in [{self.lowest:g}, {self.highest:g}], NaN {self.worst}, version "
            f"{self.version}, {content_of(self.function)}, of "
            f"{'a trial' if self.of_trial else 'each sample'}, reads "
            f"{'logits' if self.reads_logits else 'the output'}"
        )

    @property
    def is_better_higher(self) -> bool:
        """Whether higher values are better."""
        return self.worst != self.highest


def describe(metric: Metric) -> dict[str, Any]:
    """Return the facts about a metric that are part of a task's identity."""
    return {"metric": metric.identity, "columns": COLUMNS_VERSION}
