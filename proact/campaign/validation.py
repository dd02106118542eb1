"""Checks the arguments of a campaign before anything runs."""

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
    """Networks by name, one or more."""
    for name, model in variants.items():
        if not isinstance(model, nn.Module):
            raise TypeError(f"variants are torch.nn.Module, and {name} is {type(model).__name__}")
    if not variants:
        raise ValueError("a campaign needs at least one variant, got none")
    return dict(variants)


def checked_faults(faults: Sequence[Fault]) -> list[Fault]:
    """Different faults, one or more."""
    if isinstance(faults, Fault):
        raise TypeError(
            f"faults is a sequence of faults, got one {type(faults).__name__}: put it into a list"
        )
    if not faults:
        raise ValueError("a campaign needs at least one fault, got none")
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(
                "faults are of proact.faults' kinds, such as BitFlip(1e-5); got "
                f"{type(fault).__name__}"
            )
    if len(set(faults)) != len(faults):
        raise ValueError("each fault makes a cell of its own, and one was given twice")
    return list(faults)


def check_margin(margin: float | None, metric: Metric) -> None:
    """ValueError for a margin that the metric's range cannot have."""
    if margin is None:
        return
    try:
        checked_margin(margin, metric.highest - metric.lowest)
    except ValueError as error:
        raise ValueError(f"margin: {error} ({metric.name})") from None


def check_policy(policy: Policy, data: Evaluation) -> None:
    """ValueError for a policy that the data cannot follow."""
    images = policy.images
    if images is not None and not 1 <= images <= len(data):
        raise ValueError(f"a policy's images lie in [1, {len(data)}], got {images}")
    if policy.batch < 1:
        raise ValueError(f"a policy's batch is 1 or more, got {policy.batch}")


def check_outputs(models: Mapping[str, nn.Module], data: Evaluation, metric: Metric) -> None:
    """ValueError unless all networks run on the inputs and give outputs of one shape, which the
    metric can judge."""
    if metric.needs_targets and data.targets is None:
        raise ValueError(
            f"the metric {metric.name} compares outputs with labels, and the data has none"
        )
    is_own = not is_built_in(metric)
    if not is_own and metric.needs_targets and data.labels is None:
        targets = data.targets
        assert isinstance(targets, Tensor)
        raise ValueError(
            f"the metric {metric.name} takes labels (n,) int64, got targets "
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
        told = ", ".join(f"{name} gives {shape}" for shape, name in shapes.items())
        raise ValueError(
            f"variants are compared, and their outputs have one shape an image: {told}"
        )
