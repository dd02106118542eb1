"""Measure what clips do to held-out samples, and warn of a profile that saw too few samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.data.dataset import stratified_subset
from proact.nn import Site, observed
from proact.nn.batches import cloned
from proact.nn.forward import Forward
from proact.nn.site import eval_mode
from proact.protect.activation_profile import batches_of
from proact.protect.distributed import DistributedContext
from proact.protect.objective import Objective

#: The accuracy that clips may cost where the method has no tolerance.
TOLERANCE = 0.015
#: The most held-out samples with an activation above the profile, as a share.
_MOST_ABOVE = 0.2
#: Fewer held-out samples say little: the expected share decides.
_FEW_HELD_OUT = 5
#: The most held-out samples: a share of 1.5 % of so many has a standard error of 0.25 points.
MOST_HELD_OUT = 2_500
_BATCH = 256


def held_out_samples(validation: Split, most: int | None = MOST_HELD_OUT) -> Split:
    """At most ``most`` validation samples, the same share of every class; all of fixed batches."""
    if most is None or validation.batch_sizes is not None or len(validation) <= most:
        return validation
    return validation.take(stratified_subset(validation, most))


def share_above(
    model: nn.Module, split: Split, bounds: Mapping[Site, Tensor], forward: Forward
) -> float:
    """The share of samples with an activation above the largest bound of its site.

    Args:
        model: without the clips, in eval mode.
        split: the samples.
        bounds: thresholds of each site.
        forward: runs the model.
    """
    above: list[Tensor] = []
    largest = {site: float(bound.max()) for site, bound in bounds.items()}

    def observe(site: Site, output: Tensor) -> None:
        highest = output.flatten(1).amax(1) if output.dim() > 1 else output
        above.append(highest > largest[site])

    watched, count = observed(model, list(bounds), observe), 0
    with eval_mode(watched), torch.no_grad():
        for batch in batches_of(split, _BATCH):
            above.clear()
            forward(watched, cloned(batch))
            sizes = {len(each) for each in above}
            # Where the first dimension is not the batch, one sample cannot be told from another.
            if len(sizes) > 1:
                return 0.0
            count += int(torch.stack(above).any(0).sum())
    return count / len(split)


def warn_of_few_samples(
    model: nn.Module,
    profiled: int,
    split: Split,
    bounds: Mapping[Site, Tensor],
    objective: Objective,
) -> None:
    """Warn if many held-out samples have an activation above the profile.

    The largest of n + 1 numbers is equally likely to be any of them, so of samples like those of a
    profile of n, the share 1 / (n + 1) is expected to exceed it at each site.

    Args:
        model: without the clips.
        profiled: the number of samples of the profile.
        split: the held-out samples.
        bounds: the profile's maxima at each site.
        objective: runs the model.
    """
    held_out = len(split)
    if held_out < _FEW_HELD_OUT:
        expected = min(len(bounds) / (profiled + 1), 1.0)
        if expected > _MOST_ABOVE:
            _warn(
                f"the profile saw only {profiled} samples: for a model with {len(bounds)} "
                f"activation sites, up to {expected:.0%} of other samples are expected to have an "
                f"activation above it, and {held_out} held-out samples are too few to measure "
                "this: protect with more samples"
            )
        return
    share = share_above(model, split, bounds, objective.forward)
    if share > _MOST_ABOVE:
        _warn(
            f"{share:.0%} of {held_out} held-out samples have an activation above the profile of "
            f"{profiled} samples, so the profile saw too few samples: protect with more"
        )


def warn_of_cost(plain: Tensor, clipped: Tensor | None, tolerance: float, judges: bool) -> None:
    """Warn if clips cost more than the tolerance on held-out samples.

    Args:
        plain, clipped: the `scores` without and with the clips.
        tolerance: of the metric, in [0, 1].
        judges: whether the scores are values of the metric.
    """
    if clipped is None:
        return
    if judges:
        before, after = float(plain.mean()), float(clipped.mean())
        if before - after > tolerance:
            _warn(
                f"the clips lower the accuracy (or the given metric) on {len(plain)} held-out "
                f"samples from {before:.4f} to {after:.4f}, more than the tolerance of "
                f"{tolerance:g}: protect with more samples, or a higher quantile"
            )
        return
    changed = float((plain != clipped).double().mean())
    if changed > tolerance:
        _warn(
            f"the clips change the predicted class of {changed:.1%} of {len(plain)} held-out "
            f"samples, more than the tolerance of {tolerance:.1%}: protect with more samples, or a "
            "higher quantile"
        )


def scores(model: nn.Module, split: Split, objective: Objective, judges: bool) -> Tensor | None:
    """The metric of each sample, or its predicted class; None where neither is defined.

    Args:
        model: runs in eval mode.
        split: the samples.
        objective: runs the model and judges its outputs.
        judges: whether the metric is defined.
    """
    found = []
    with eval_mode(model), torch.no_grad():
        for inputs, targets in split.batches(_BATCH):
            if judges:
                logits = objective.forward.logits(model, cloned(inputs))
                found.append(objective.values(logits, targets).cpu())
                continue
            classes = objective.class_logits(model, inputs)
            if classes is None:
                return None
            found.append(classes.argmax(1).cpu())
    return torch.cat(found)


def _warn(text: str) -> None:
    if DistributedContext.current().is_first:
        warnings.warn(text, stacklevel=4)
