"""Gradients with respect to stored scales and zero points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from proact.encodings.scaled_words import StoredScale


def gradients_of_scales(
    scales: Iterable[StoredScale], values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Gradients by the name of the scales, (n,) float64, by the chain rule.

    A number w = (q - z) s has the derivatives w / s with respect to its scale, and -s with respect
    to its zero point. What is not finite counts as 0.

    Args:
        scales: the scales and zero points.
        values: of the tensors that they belong to, and of themselves, by name.
        gradients: with respect to the tensors, by name. Scales of other tensors are left out.
    """
    found = {}
    for scale in scales:
        gradient = gradients.get(scale.of.name)
        if gradient is None:
            continue
        slopes = gradient.double().cpu().reshape(-1).numpy()
        elements = np.arange(len(slopes), dtype=np.uint64)
        own = values[scale.name].double().cpu().numpy()
        with np.errstate(all="ignore"):
            if scale.part.is_zero_point:
                parts = -slopes * scale.scaled.scales[scale.scaled.layout.numbers(elements)]
                divisor = np.ones(len(own))
            else:
                parts = slopes * values[scale.of.name].double().cpu().reshape(-1).numpy()
                divisor = own
            sums = np.bincount(scale.part.layout.numbers(elements), parts, minlength=len(own))
            found[scale.name] = torch.from_numpy(
                np.nan_to_num(sums / divisor, nan=0.0, posinf=0.0, neginf=0.0)
            )
    return found


def values_of_scales(scales: Iterable[StoredScale]) -> dict[str, Tensor]:
    """The scales and zero points that are stored now, (n,) float64, by name."""
    return {
        scale.name: torch.from_numpy(scale.part.values(np.arange(scale.tensor.numel())))
        for scale in scales
    }
