"""The profile: the largest activation of every neuron over the training images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.nn import Site, find_sites, observed
from proact.nn.site import evaluating

GRANULARITIES = ("layer", "channel", "neuron", "hybrid")


def profile(model: nn.Module, images: Tensor, batch: int = 256) -> dict[Site, Tensor]:
    """The exact maximum of every neuron at every site, in execution order.

    Args:
        model: runs in eval mode, without autograd; left as it was.
        images: (samples, ...), transformed as for a test. ``batch`` of them run at a time, which
            changes speed and memory only.

    Returns:
        For each site a tensor of the shape of one sample there.

    Raises:
        ValueError: what `proact.nn.find_sites` refuses, and activations that are not finite.
    """
    sites = find_sites(model, images[:1])
    maxima: dict[Site, Tensor] = {}

    def observe(site: Site, output: Tensor) -> None:
        highest = output.amax(0)
        maxima[site] = torch.maximum(maxima[site], highest) if site in maxima else highest

    watched = observed(model, sites, observe)
    with evaluating(watched), torch.no_grad():
        for part in images.split(batch):
            watched(part)
    for site in sites:
        if not torch.isfinite(maxima[site]).all():
            raise ValueError(
                f"the activations at {site.name!r} are not finite on the training images: the "
                "network is broken or its input out of range"
            )
    return {site: maxima[site] for site in sites}


def reduce_profile(maxima: dict[Site, Tensor], granularity: str) -> dict[Site, Tensor]:
    """Thresholds at the profile's maxima: one a layer, channel or neuron, or one a layer and a
    neuron-wise last site (``"hybrid"``, arXiv 2406.06313, section III-A)."""
    check_granularity(granularity)
    last = list(maxima)[-1]
    thresholds = {}
    for site, maximum in maxima.items():
        here = granularity
        if granularity == "hybrid":
            here = "neuron" if site == last else "layer"
        thresholds[site] = _reduced(maximum, here)
    return thresholds


def check_granularity(granularity: str) -> None:
    if granularity not in GRANULARITIES:
        raise ValueError(f"a granularity is one of {', '.join(GRANULARITIES)}; got {granularity!r}")


def _reduced(maximum: Tensor, granularity: str) -> Tensor:
    if granularity == "layer":
        return maximum.amax()
    if granularity == "channel" and maximum.dim() > 1:
        return maximum.amax(tuple(range(1, maximum.dim())), keepdim=True)
    return maximum.clone()
