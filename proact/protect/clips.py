"""The clips that a method chooses: one `HyReLU` for each activation site."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from proact.nn import HyReLU, Site

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
