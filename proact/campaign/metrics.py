"""What is measured of a trial: how right the outputs are, and how far from those without faults."""

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

#: Raise it when a column of a row comes to count something else.
COLUMNS_VERSION = 2
_TOP = 5

#: (logits, targets, clean logits) of some images to one value an image.
ImageValues = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """What a cell's mean, interval and margin are about.

    Attributes:
        name: for tables; in the store it is part of a task's identity.
        function: of the outputs under faults (m, ...), the targets (m, ...) or None, and the
            outputs without faults (m, ...); gives one number an image, (m,). Any outputs and
            targets will do: segmentation maps, boxes, regressions.
        lowest, highest: the range of its values. What lies outside is moved to the nearer end.
        worst: what NaN counts as; the lowest by default. Where it is the highest, as for errors,
            less is better.
        needs_targets: whether ``function`` reads its second argument.
        version: raise it when the function comes to mean something else. Its source text is part of
            the identity too, where Python can read it.
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
                f"a metric's values lie in [lowest, highest], both finite, got [{self.lowest!r}, "
                f"{self.highest!r}]"
            )
        if self.worst is not None and not self.lowest <= self.worst <= self.highest:
            raise ValueError(
                f"a metric's worst value lies in [{self.lowest:g}, {self.highest:g}], got "
                f"{self.worst!r}"
            )
        if not callable(self.function):
            raise TypeError(f"a metric's function is callable, got {self.function!r}")

    def of(self, output: Tensor, targets: Tensor | None, clean: Tensor) -> Tensor:
        """One float64 an image, (m,), inside the range."""
        values = self.function(output, targets, clean)
        if not isinstance(values, Tensor) or values.shape != (len(output),):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the metric {self.name} gives one number an image, ({len(output)},), got {shape}"
            )
        worst = self.lowest if self.worst is None else self.worst
        values = values.to(torch.float64)
        return torch.where(values.isnan(), worst, values).clamp(self.lowest, self.highest)

    @property
    def identity(self) -> str:
        """What tells it from other metrics."""
        return (
            f"{self.name} in [{self.lowest:g}, {self.highest:g}], NaN {self.worst}, version "
            f"{self.version}, {content_of(self.function)}"
        )

    @property
    def is_better_higher(self) -> bool:
        """Whether a network that is worse off has a lower value."""
        return self.worst != self.highest


class Counts(NamedTuple):
    """What is counted of one trial's outputs; None where the outputs are no classes or have no
    labels.

    SDC counts are of outputs that silently or loudly differ from those without faults, by the
    severities of G. Li et al., "Understanding error propagation in deep learning neural network
    (DNN) accelerators and applications", SC 2017. An output that is not finite differs in all.

    Attributes:
        correct, top5: images whose label is the highest, or among the five highest logits.
        loss: mean cross-entropy in nats, at most 20 an image.
        agreeing: images with the prediction that they have without faults; the others are SDC-1.
        sdc5: images whose prediction without faults is not among the five highest any more.
        sdc10, sdc20: images whose highest softmax value changes by more than 10 (20) percent of
            what it is without faults.
        non_finite: images whose output holds NaN or infinity: a failure that can be detected.
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
    """What `count` needs of outputs without faults (n, classes): (n, 3) float64 of the prediction,
    the highest softmax value, and whether all is finite."""
    confidence = clean.float().softmax(1).amax(1)
    columns = (clean.argmax(1), confidence, torch.isfinite(clean).all(1))
    return torch.stack([column.to(torch.float64) for column in columns], dim=1)


def count(output: Tensor, labels: Tensor | None, reference: Tensor) -> Counts:
    """Counts of the outputs (m, classes) beside the `reference_of` the clean ones; one transfer
    from a GPU."""
    finite = torch.isfinite(output).all(1)
    top = output.topk(min(_TOP, output.shape[1])).indices
    # topk and argmax may break ties in different ways, and argmax is what predicts.
    predicted, expected = output.argmax(1), reference[:, 0]
    agrees = predicted == expected
    logarithms = output.float().log_softmax(1)
    change = (logarithms.amax(1).exp() / reference[:, 1] - 1.0).abs()
    columns = [
        # An output that is not finite without faults either is no corruption.
        torch.where(finite, agrees, reference[:, 2] == 0.0),
        ~(finite & (agrees | (top == expected[:, None]).any(1))),
        ~(finite & (change <= 0.1)),
        ~(finite & (change <= 0.2)),
        ~finite,
    ]
    if labels is not None:
        right = finite & (predicted == labels)
        loss = -logarithms.gather(1, labels[:, None])[:, 0]
        loss = torch.where(finite, loss, HIGHEST_LOSS).clamp(max=HIGHEST_LOSS)
        columns += [right, right | (finite & (top == labels[:, None]).any(1)), loss]
    sums = torch.stack([column.to(torch.float64) for column in columns]).sum(1).tolist()
    agreeing, sdc5, sdc10, sdc20, non_finite = map(int, sums[:5])
    if labels is None:
        return Counts(None, None, None, agreeing, sdc5, sdc10, sdc20, non_finite)
    correct, top5 = map(int, sums[5:7])
    loss_mean = sums[7] / len(output)
    return Counts(correct, top5, loss_mean, agreeing, sdc5, sdc10, sdc20, non_finite)


def count_non_finite(output: Tensor) -> Counts:
    """What can be counted of outputs (m, ...) that are no classes."""
    finite = torch.isfinite(output).reshape(len(output), -1).all(1)
    return Counts(None, None, None, None, None, None, None, int((~finite).sum()))


def value_from(counts: Counts, images: int, metric: Metric) -> float | None:
    """The mean of a built-in metric over so many images; None for any other."""
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
    """A metric by its name, or itself; ValueError for an unknown name."""
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise ValueError(
            f"a metric is one of {', '.join(METRICS)}, or a proact.campaign.Metric; got {metric!r}"
        )
    return METRICS[metric]


def is_built_in(metric: Metric) -> bool:
    """Whether outputs have to be classes."""
    return metric in METRICS.values()


def describe(metric: Metric) -> dict[str, Any]:
    """Its part of a task's identity."""
    return {"metric": metric.identity, "columns": COLUMNS_VERSION}
