"""The metrics that have a name: of classes, tokens, segmentation maps, boxes, and any outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from proact.campaign.counts import TOP, computable
from proact.campaign.metrics import Metric, MetricFunction
from proact.errors import ProactError, unknown
from proact.nn.forward import described
from proact.results.metric_info import BUILT_IN_METRICS, HIGHEST_LOSS

#: Targets that do not count: this value of torch's cross-entropy, and the 255 of Pascal VOC.
IGNORED_TOKEN, IGNORED_PIXEL = -100, 255


def _finite(output: Tensor) -> Tensor:
    return torch.isfinite(output).all(1)


def _top_1(output: Tensor, targets: Tensor, clean: None) -> Tensor:
    return _finite(output) & (output.argmax(1) == targets)


def _top_5(output: Tensor, targets: Tensor, clean: None) -> Tensor:
    top = output.topk(min(TOP, output.shape[1])).indices
    return _finite(output) & ((top == targets[:, None]).any(1) | (output.argmax(1) == targets))


def _loss(output: Tensor, targets: Tensor, clean: None) -> Tensor:
    loss = functional.cross_entropy(computable(output), targets, reduction="none")
    return torch.where(_finite(output), loss, HIGHEST_LOSS)


def _sdc(output: Tensor, targets: None, clean: Tensor) -> Tensor:
    return torch.where(_finite(output), output.argmax(1) != clean.argmax(1), _finite(clean))


def _token_targets(output: Tensor, targets: Any) -> Tensor:
    """Check logits (m, tokens, classes) and targets (m, tokens), and return the targets."""
    if not isinstance(targets, Tensor) or targets.dim() != 2 or targets.is_floating_point():
        raise ValueError(
            "expected targets (samples, tokens) of integers for a metric of tokens, got "
            f"{described(targets)}"
        )
    if output.dim() != 3 or output.shape[:2] != targets.shape:
        raise ValueError(
            "expected logits (samples, tokens, classes) for targets of shape "
            f"{tuple(targets.shape)}, got {tuple(output.shape)}"
        )
    counted = targets != IGNORED_TOKEN
    classes = output.shape[2]
    if bool((counted & ((targets < 0) | (targets >= classes))).any()):
        raise ValueError(
            f"expected targets in [0, {classes}), or {IGNORED_TOKEN} for tokens that do not count, "
            f"got values in [{int(targets.min())}, {int(targets.max())}]"
        )
    if not bool(counted.any(1).all()):
        raise ValueError(
            "expected a token that counts in each sample, got a sample whose targets are all "
            f"{IGNORED_TOKEN}: leave such samples out"
        )
    return targets.to(torch.int64)


def _token_accuracy(output: Tensor, targets: Any, clean: None) -> Tensor:
    targets = _token_targets(output, targets)
    counted = targets != IGNORED_TOKEN
    right = (output.argmax(2) == targets) & torch.isfinite(output).all(2) & counted
    share: Tensor = right.sum(1).double() / counted.sum(1)
    return share


def _token_loss(output: Tensor, targets: Any, clean: None) -> Tensor:
    targets = _token_targets(output, targets)
    losses = functional.cross_entropy(
        computable(output).transpose(1, 2), targets, reduction="none", ignore_index=IGNORED_TOKEN
    )
    counted = targets != IGNORED_TOKEN
    # A logit of minus infinity at another class leaves the loss finite, but is no valid answer.
    finite = torch.isfinite(output).all(2) | ~counted
    losses = torch.where(finite, losses, HIGHEST_LOSS).clamp(max=HIGHEST_LOSS)
    mean: Tensor = losses.sum(1) / counted.sum(1)
    return mean


def _mean_iou(outputs: list[Any], targets: list[Any], clean: list[Any]) -> float:
    """The mean intersection over union of the classes that occur, over all pixels of a trial."""
    confusion: Tensor | None = None
    for output, target in zip(outputs, targets, strict=True):
        if not isinstance(target, Tensor) or output.dim() != 4:
            raise ValueError(
                "expected logits (samples, classes, height, width) and targets (samples, height, "
                f"width) for mean-iou, got {described(output)} and {described(target)}"
            )
        if target.shape != (len(output), *output.shape[2:]):
            raise ValueError(
                f"expected targets of shape {(len(output), *output.shape[2:])} for mean-iou, got "
                f"{tuple(target.shape)}"
            )
        classes = output.shape[1]
        counted = (target >= 0) & (target != IGNORED_PIXEL)
        highest = int(torch.where(counted, target, 0).max())
        if highest >= classes:
            raise ValueError(
                f"expected targets below {classes}, the number of classes, for mean-iou, got "
                f"{highest}"
            )
        # A pixel without a valid answer counts as a class of its own, which is always wrong.
        predicted = torch.where(torch.isfinite(output).all(1), output.argmax(1), classes)
        pairs = target[counted].long() * (classes + 1) + predicted[counted]
        found = pairs.bincount(minlength=classes * (classes + 1)).view(classes, classes + 1)
        confusion = found if confusion is None else confusion + found
    assert confusion is not None
    hits = confusion.diagonal().double()
    union = confusion.sum(1) + confusion[:, :-1].sum(0) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


def _cosine(output: Tensor, targets: None, clean: Tensor) -> Tensor:
    one, other = output.flatten(1).double(), clean.flatten(1).double()
    similarity = functional.cosine_similarity(one, other, dim=1)
    return torch.where((one == other).all(1), 1.0, similarity)


def _mean_average_precision(outputs: list[Any], targets: list[Any], clean: list[Any]) -> float:
    """COCO's mean average precision over IoU thresholds from 0.5 to 0.95."""
    try:
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise ProactError(
            "the metric mean-average-precision needs torchmetrics and pycocotools: pip install "
            "'proact[detection]'"
        ) from error
    metric = MeanAveragePrecision()
    for output, target in zip(outputs, targets, strict=True):
        metric.update([_finite_boxes(image) for image in output], target)
    value = float(metric.compute()["map"])
    return max(value, 0.0)  # -1 stands for no object


def _finite_boxes(image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    valid = torch.isfinite(image["boxes"]).all(1) & torch.isfinite(image["scores"])
    return {name: image[name][valid] for name in ("boxes", "scores", "labels")}


def _built_in(name: str, function: MetricFunction, **more: Any) -> Metric:
    info = BUILT_IN_METRICS[name]
    worst = None if info.is_better_higher else info.highest
    return Metric(
        name, function, info.lowest, info.highest, worst, **{"reads_logits": True, **more}
    )


#: The metrics of class logits (m, classes). Campaigns read their values from the counts of a trial.
CLASS_METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _built_in("top-1", _top_1, needs_clean=False),
        _built_in("top-5", _top_5, needs_clean=False),
        _built_in("loss", _loss, needs_clean=False),
        _built_in("sdc", _sdc, needs_targets=False),
    )
}


METRICS: Mapping[str, Metric] = {
    **CLASS_METRICS,
    **{
        metric.name: metric
        for metric in (
            _built_in("token-accuracy", _token_accuracy, needs_clean=False),
            _built_in("token-loss", _token_loss, needs_clean=False),
            _built_in("mean-iou", _mean_iou, needs_clean=False, of_trial=True),
            _built_in(
                "mean-average-precision",
                _mean_average_precision,
                needs_clean=False,
                of_trial=True,
                reads_logits=False,
            ),
            _built_in("cosine", _cosine, needs_targets=False),
        )
    },
}


def metric_named(metric: str | Metric) -> Metric:
    """Return the metric of a name, or a given `Metric` itself.

    Raises:
        ValueError: no metric has this name.
    """
    if isinstance(metric, Metric):
        return metric
    if metric == "perplexity":
        raise ValueError(
            "expected the metric 'token-loss', whose exponential is the perplexity, got "
            "'perplexity': a mean of perplexities would hang on the worst trials alone"
        )
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return METRICS[metric]


def is_of_classes(metric: Metric) -> bool:
    """Whether a metric needs logits of classes (m, classes)."""
    return metric in CLASS_METRICS.values()


def has_classes_last(metric: Metric) -> bool:
    """Whether a metric needs logits (..., classes), and takes an infinite one for a failure."""
    return is_of_classes(metric) or metric.name in ("token-accuracy", "token-loss")
