"""Metrics and counts of a trial: correctness of outputs, and deviation from clean outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from proact.campaign.code_digest import content_of
from proact.results.metric_info import BUILT_IN_METRICS, HIGHEST_LOSS

#: Increase this when a column of a row changes its meaning.
COLUMNS_VERSION = 2
_TOP = 5

#: Maps (outputs, targets, clean outputs) of m images to one value per image, (m,).
ImageValues = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """The quantity that a cell averages: its mean, interval and margin are in this unit.

    Attributes:
        name: shown in tables, and part of the identity of a task.
        function: maps the outputs under faults (m, ...), the targets (m, ...) or None, and the
            clean outputs (m, ...) to one number per image, (m,). Outputs and targets can be of any
            kind: segmentation maps, boxes, regressions.
        lowest, highest: finite ends of the closed range of values. Values outside are clamped.
        worst: the value that replaces NaN, in [lowest, highest]; ``lowest`` by default. If it
            equals ``highest``, as for errors, lower values are better.
        needs_targets: whether ``function`` reads its second argument.
        version: change it when the function changes its meaning. The source text of the function
            is part of the identity too, if Python can read it.

    Raises:
        ValueError: a range that is empty or not finite, or ``worst`` outside it.
        TypeError: ``function`` is not callable.
    """

    name: str
    function: ImageValues
    lowest: float = 0.0
    highest: float = 1.0
    worst: float | None = None
    needs_targets: bool = True
    version: str = "1"

    def __post_init__(self) -> None:
        if not -math.inf < self.lowest < self.highest < math.inf:
            raise ValueError(
                f"expected a metric with a finite range [lowest, highest], got [{self.lowest!r}, "
                f"{self.highest!r}]"
            )
        if self.worst is not None and not self.lowest <= self.worst <= self.highest:
            raise ValueError(
                f"expected a metric's worst value in [{self.lowest:g}, {self.highest:g}], got "
                f"{self.worst!r}"
            )
        if not callable(self.function):
            raise TypeError(f"expected a callable as a metric's function, got {self.function!r}")

    def of(self, output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
        """Evaluate the metric: (m,) float64 in [lowest, highest], one value per image.

        Raises:
            ValueError: the function returned another shape.
        """
        values = self.function(output, targets, clean)
        if not isinstance(values, Tensor) or values.shape != (len(output),):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"expected one number per image, ({len(output)},), from the metric {self.name}, "
                f"got {shape}"
            )
        worst = self.lowest if self.worst is None else self.worst
        values = values.to(torch.float64)
        return torch.where(values.isnan(), worst, values).clamp(self.lowest, self.highest)

    @property
    def identity(self) -> str:
        """A text that distinguishes this metric from all others."""
        return (
            f"{self.name} in [{self.lowest:g}, {self.highest:g}], NaN {self.worst}, version "
            f"{self.version}, {content_of(self.function)}"
        )

    @property
    def is_better_higher(self) -> bool:
        """Whether higher values are better."""
        return self.worst != self.highest


class Counts(NamedTuple):
    """Counts over the images of one trial.

    A field is None if the outputs are not logits of classes, or if it needs labels and there are no
    labels. The SDC (silent data corruption) counts follow the severities of G. Li et al.,
    "Understanding error propagation in deep learning neural network (DNN) accelerators and
    applications", SC 2017. A non-finite output counts in every severity.

    Attributes:
        correct, top5: images whose label has the highest, or one of the five highest logits.
        loss: mean cross-entropy in nats, with at most 20 nats per image.
        agreeing: images whose prediction equals the clean one; the others are SDC-1.
        sdc5: images whose clean prediction is not among the five highest logits.
        sdc10, sdc20: images whose highest softmax value differs by more than 10 (20) percent from
            the clean value.
        non_finite: images whose output holds NaN or infinity, a failure that can be detected.
    """

    correct: int | None
    top5: int | None
    loss: float | None
    agreeing: int | None
    sdc5: int | None
    sdc10: int | None
    sdc20: int | None
    non_finite: int


def reference_of(clean: Tensor) -> Tensor:
    """Summarise clean outputs (n, classes) for `count`.

    Returns:
        (n, 3) float64: the prediction, the highest softmax value, and 1 if all logits are finite,
        else 0.
    """
    confidence = clean.float().softmax(1).amax(1)
    columns = (clean.argmax(1), confidence, torch.isfinite(clean).all(1))
    return torch.stack([column.to(torch.float64) for column in columns], dim=1)


def count(output: Tensor, labels: Tensor | None, reference: Tensor) -> Counts:
    """Count the outputs (m, classes) against ``reference``, the rows (m, 3) of `reference_of`.

    Needs one transfer from a GPU.
    """
    finite = torch.isfinite(output).all(1)
    top = output.topk(min(_TOP, output.shape[1])).indices
    # topk and argmax may break ties differently; argmax defines the prediction.
    predicted, expected = output.argmax(1), reference[:, 0]
    agrees = predicted == expected
    logarithms = output.float().log_softmax(1)
    change = (logarithms.amax(1).exp() / reference[:, 1] - 1.0).abs()
    columns = [
        # A non-finite output is not a corruption if the clean output is non-finite too.
        torch.where(finite, agrees, reference[:, 2] == 0.0),
        ~(finite & (agrees | (top == expected[:, None]).any(1))),
        ~(finite & (change <= 0.1)),
        ~(finite & (change <= 0.2)),
        ~finite,
    ]
    if labels is not None:
        correct_mask = finite & (predicted == labels)
        loss = -logarithms.gather(1, labels[:, None])[:, 0]
        loss = torch.where(finite, loss, HIGHEST_LOSS).clamp(max=HIGHEST_LOSS)
        in_top5 = correct_mask | (finite & (top == labels[:, None]).any(1))
        columns += [correct_mask, in_top5, loss]
    sums = torch.stack([column.to(torch.float64) for column in columns]).sum(1).tolist()
    agreeing, sdc5, sdc10, sdc20, non_finite = map(int, sums[:5])
    if labels is None:
        return Counts(None, None, None, agreeing, sdc5, sdc10, sdc20, non_finite)
    correct, top5 = map(int, sums[5:7])
    loss_mean = sums[7] / len(output)
    return Counts(correct, top5, loss_mean, agreeing, sdc5, sdc10, sdc20, non_finite)


def count_non_finite(output: Tensor) -> Counts:
    """Count non-finite outputs among outputs (m, ...) that are not logits of classes."""
    finite = torch.isfinite(output).reshape(len(output), -1).all(1)
    return Counts(None, None, None, None, None, None, None, int((~finite).sum()))


def value_from(counts: Counts, images: int, metric: Metric) -> float | None:
    """Return the mean of a built-in metric over ``images`` images; None for other metrics."""
    found = {
        "top-1": counts.correct,
        "top-5": counts.top5,
        "sdc": None if counts.agreeing is None else images - counts.agreeing,
    }
    if not is_built_in(metric):
        return None
    hits = found.get(metric.name)
    return counts.loss if hits is None else hits / images


def _finite(output: Tensor) -> Tensor:
    return torch.isfinite(output).all(1)


def _top_1(output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
    return _finite(output) & (output.argmax(1) == targets)


def _top_5(output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
    assert targets is not None
    top = output.topk(min(_TOP, output.shape[1])).indices
    return _finite(output) & ((top == targets[:, None]).any(1) | (output.argmax(1) == targets))


def _loss(output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
    assert targets is not None
    loss = functional.cross_entropy(output.float(), targets, reduction="none")
    return torch.where(_finite(output), loss, HIGHEST_LOSS)


def _sdc(output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
    return torch.where(_finite(output), output.argmax(1) != clean.argmax(1), _finite(clean))


def _built_in(name: str, function: ImageValues, needs_targets: bool = True) -> Metric:
    info = BUILT_IN_METRICS[name]
    worst = None if info.is_better_higher else info.highest
    return Metric(name, function, info.lowest, info.highest, worst, needs_targets)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _built_in("top-1", _top_1),
        _built_in("top-5", _top_5),
        _built_in("loss", _loss),
        _built_in("sdc", _sdc, needs_targets=False),
    )
}


def metric_named(metric: str | Metric) -> Metric:
    """Return the built-in metric of a name, or a given `Metric` itself.

    Raises:
        ValueError: no built-in metric has this name.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise ValueError(
            f"expected one of {', '.join(METRICS)} or a proact.campaign.Metric, got {metric!r}"
        )
    return METRICS[metric]


def is_built_in(metric: Metric) -> bool:
    """Whether a metric is built in, and so needs logits of classes."""
    return metric in METRICS.values()


def describe(metric: Metric) -> dict[str, Any]:
    """Return the facts about a metric that are part of a task's identity."""
    return {"metric": metric.identity, "columns": COLUMNS_VERSION}
