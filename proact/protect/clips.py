"""The clips that a method chooses: one `HyReLU` for each activation site."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from proact.nn import HyReLU, Site
from proact.ops.hyrelu import broadcasts

#: The clip that replaces the activation of each site, in execution order.
Clips = dict[Site, HyReLU]


def clips_at(thresholds: Mapping[Site, Tensor], mode: str, slope: float = 20.0) -> Clips:
    """A clip for each site.

    Args:
        thresholds: (), (channels, 1, ...) or the shape of one sample, in units of activation.
        mode: ``"zero"``, ``"saturate"`` or ``"soft"``, as for `proact.nn.HyReLU`.
        slope: the steepness of ``"soft"``, per unit of activation.
    """
    return {site: site.clip(value, mode, slope) for site, value in thresholds.items()}


def threshold_problem(site: Site, threshold: Tensor) -> str:
    """Describe why a tensor cannot be the threshold of a site; "" if it can.

    The activations of a ReLU are at least 0, and so are thresholds. A neuron that is never active
    has the threshold 0.
    """
    if not threshold.is_floating_point():
        return f"has the dtype {threshold.dtype}: expected floating point"
    if not broadcasts(tuple(threshold.shape), (1, *site.shape)):
        return f"has the shape {tuple(threshold.shape)}, which does not fit {site.shape}"
    if not torch.isfinite(threshold).all():
        return "holds NaN or infinity: expected finite numbers"
    if site.activation.kind == "relu" and (threshold < 0).any():
        return "holds a negative number: the threshold of a ReLU must be at least 0"
    return ""
