"""Ranger: thresholds at the profile's bounds.

Z. Chen, G. Li, K. Pattabiraman, "A Low-cost Fault Corrector for Deep Neural Networks through Range
Restriction", arXiv 2003.13874.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from proact.data import Data
from proact.nn import replace_sites
from proact.ops.hyrelu import check_mode_and_slope
from proact.protect.profile import check_granularity, profile, reduce_profile


@dataclass(frozen=True)
class RangerOptions:
    """Options of ``protect(model, "ranger", ...)``.

    Attributes:
        granularity: ``"layer"`` (published), ``"channel"``, ``"neuron"`` or ``"hybrid"``.
        mode: ``"saturate"`` (published: what is too large becomes the bound) or ``"zero"``.
    """

    granularity: str = "layer"
    mode: str = "saturate"

    def __post_init__(self) -> None:
        check_granularity(self.granularity)
        check_mode_and_slope(self.mode)


def ranger(
    model: nn.Module, data: Data, options: RangerOptions, progress: Callable[[str], None]
) -> nn.Module:
    thresholds = reduce_profile(profile(model, data.train.images), options.granularity)
    progress(f"{len(thresholds)} sites profiled")
    return replace_sites(
        model,
        {site: site.clip(bound, options.mode) for site, bound in thresholds.items()},
    )
