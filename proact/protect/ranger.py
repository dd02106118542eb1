"""Ranger: thresholds at the profile's bounds.

Z. Chen, G. Li, K. Pattabiraman, "A Low-cost Fault Corrector for Deep Neural Networks through Range
Restriction", arXiv 2003.13874.
"""

from __future__ import annotations

from torch import nn

from proact.data import Data
from proact.nn import HyReLU, replace_sites
from proact.ops.hyrelu import check_mode_and_slope
from proact.protect.profile import profile, reduce_profile


def ranger(
    model: nn.Module, data: Data, *, granularity: str = "layer", mode: str = "saturate"
) -> nn.Module:
    """Options of ``protect(model, "ranger", ...)``.

    Args:
        granularity: ``"layer"`` (published), ``"channel"``, ``"neuron"`` or ``"hybrid"``.
        mode: ``"saturate"`` (published: what is too large becomes the bound) or ``"zero"``.
    """
    check_mode_and_slope(mode)
    thresholds = reduce_profile(profile(model, data.train.images), granularity)
    return replace_sites(
        model, {site.name: HyReLU(threshold, mode) for site, threshold in thresholds.items()}
    )
