"""Check the arguments of a campaign before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from proact.campaign.evaluation import Evaluation
from proact.campaign.metrics import Metric, is_built_in
from proact.faults import Fault
from proact.models.evaluation import check_fit, check_runs
from proact.results.policy import Policy
from proact.results.statistics import checked_margin


def checked_variants(variants: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return at least one model by name.

    Raises:
        TypeError, ValueError: a value is not a `torch.nn.Module`, or there are no variants.
    """
    for name, model in variants.items():
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"variants: expected torch.nn.Module, got {type(model).__name__} for {name}"
            )
    if not variants:
        raise ValueError("variants: expected at least one, got none")
    return dict(variants)


def checked_faults(faults: Sequence[Fault]) -> list[Fault]:
    """Return at least one fault; all differ.

    Raises:
        TypeError, ValueError: not a sequence of distinct `proact.faults.Fault`, or empty.
    """
    if isinstance(faults, Fault):
        raise TypeError(f"faults: expected a list of faults, got a single {type(faults).__name__}")
    if not faults:
        raise ValueError("faults: expected at least one, got none")
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(
                "faults: expected kinds of proact.faults, such as BitFlip(1e-5), got "
                f"{type(fault).__name__}"
            )
    if len(set(faults)) != len(faults):
        raise ValueError("faults: expected distinct faults, got one twice")
    return list(faults)


def check_margin(margin: float | None, metric: Metric) -> None:
    """Raise ValueError for a margin that does not fit the metric's range."""
    if margin is None:
        return
    try:
        checked_margin(margin, metric.highest - metric.lowest)
    except ValueError as error:
        raise ValueError(f"margin: {error} ({metric.name})") from None


def check_policy(policy: Policy, data: Evaluation) -> None:
    """Raise ValueError for a policy that does not fit the data."""
    images = policy.images
    if images is not None and not 1 <= images <= len(data):
        raise ValueError(f"policy: expected images in [1, {len(data)}], got {images}")
    if policy.batch < 1:
        raise ValueError(f"policy: expected a batch of at least 1, got {policy.batch}")


def check_outputs(models: Mapping[str, nn.Module], data: Evaluation, metric: Metric) -> None:
    """Run each model on one input and check that the metric accepts its output.

    Raises:
        ValueError: a model does not run on the inputs, outputs differ in shape between models, or
            the metric needs other targets or outputs.
    """
    if metric.needs_targets and data.targets is None:
        raise ValueError(f"data: expected labels for the metric {metric.name}, got none")
    is_own = not is_built_in(metric)
    if not is_own and metric.needs_targets and data.labels is None:
        targets = data.targets
        assert isinstance(targets, Tensor)
        raise ValueError(
            f"data: expected labels (n,) int64 for the metric {metric.name}, got targets "
            f"{tuple(targets.shape)} {targets.dtype}"
        )
    shapes: dict[tuple[int, ...], str] = {}
    for name, model in models.items():
        output = check_runs(model, data.inputs[:1].clone(), name)
        if not is_own and (metric.needs_targets or output.dim() != 2):
            labels = data.labels if data.labels is not None else torch.zeros(1, dtype=torch.int64)
            check_fit(output, labels, name)
        shapes.setdefault(tuple(output.shape[1:]), name)
    if len(shapes) > 1:
        listed = ", ".join(f"{shape} from {name}" for shape, name in shapes.items())
        raise ValueError(f"variants: expected outputs of one shape per image, got {listed}")
