"""The profile: how large activations get at every site over the training images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from proact.nn import Site, find_sites, observed
from proact.nn.site import eval_mode

GRANULARITIES = ("layer", "channel", "neuron", "hybrid")

_MOST_BYTES = 4 << 30
#: For a number that is kept: twice as many are gathered, copied, and sorted with their indices.
_PEAK_BYTES = 28


def profile(
    model: nn.Module, images: Tensor, batch: int = 256, kinds: Sequence[str] = ("relu",)
) -> dict[Site, Tensor]:
    """The exact maximum of every neuron at every site, in execution order.

    Args:
        model: runs in eval mode, without autograd; left as it was.
        images: (samples, ...), transformed as for a test. ``batch`` of them run at a time, which
            changes speed and memory only.
        kinds: of activations, as for `proact.nn.find_sites`.

    Returns:
        For each site a tensor of the shape of one sample there.

    Raises:
        ValueError: what `proact.nn.find_sites` refuses, and activations that are not finite.
    """
    (maxima,) = profile_quantiles(model, images, "neuron", (1.0,), batch, kinds)
    return maxima


def profile_quantiles(
    model: nn.Module,
    images: Tensor,
    granularity: str,
    quantiles: Sequence[float],
    batch: int = 256,
    kinds: Sequence[str] = ("relu",),
) -> list[dict[Site, Tensor]]:
    """For each quantile, thresholds that this share of the images does not exceed anywhere in the
    layer, channel or neuron that each is for. Exact, in one pass, whatever the batch.

    Of n images the floor((1 - quantile) n) with the largest activations exceed it, images that tie
    with the threshold aside. As many numbers a threshold are kept on the way.

    Args:
        granularity: ``"layer"``, ``"channel"``, ``"neuron"`` or ``"hybrid"``.
        quantiles: in (0, 1]; 1 gives the maximum.

    Raises:
        ValueError: as `profile`; a quantile out of range, or so low that what is kept would take
            more than 4 GiB.
    """
    check_granularity(granularity)
    for quantile in quantiles:
        check_quantile(quantile)
    # The margin is for products such as (1 - 0.9) * 10, which come out just below the integer.
    ranks = [
        min(int((1.0 - quantile) * len(images) + 1e-9) + 1, len(images)) for quantile in quantiles
    ]
    sites = find_sites(model, images[:1], kinds)
    granularities = _granularities(sites, granularity)
    thresholds = sum(_reduced(torch.empty(s.shape), g).numel() for s, g in granularities.items())
    if _PEAK_BYTES * max(ranks) * thresholds > _MOST_BYTES:
        raise ValueError(
            f"a quantile that {max(ranks) - 1} of {len(images)} images exceed needs more than "
            f"{_MOST_BYTES >> 30} GiB for {thresholds} thresholds: take a higher quantile, fewer "
            "images or a coarser granularity"
        )
    largest = {site: _Largest(max(ranks)) for site in sites}

    def observe(site: Site, output: Tensor) -> None:
        if granularities[site] != "layer" and output.shape[1:] != site.shape:
            raise ValueError(
                f"the activations at {site.name!r} have shape {site.shape} a sample for one image "
                f"and {tuple(output.shape[1:])} for several: where their first dimension is not "
                "the batch, take the granularity 'layer'"
            )
        largest[site].see(_reduced(output, granularities[site], samples=True))

    watched = observed(model, sites, observe)
    with eval_mode(watched), torch.no_grad():
        for part in images.split(batch):
            watched(part)
    for site, kept in largest.items():
        if not kept.has_seen:
            raise ValueError(
                f"the activation {site.name!r} ran for one training image alone and for no batch "
                "of them: the network branches on what it is given"
            )
    sorted_ones = {site: kept.descending() for site, kept in largest.items()}
    for site, values in sorted_ones.items():
        if not torch.isfinite(values).all():
            raise ValueError(
                f"the activations at {site.name!r} are not finite on the training images: the "
                "network is broken or its input out of range"
            )
    return [{s: values[rank - 1].clone() for s, values in sorted_ones.items()} for rank in ranks]


class _Largest:
    """The ``count`` largest values along the first dimension of all that was seen, for each
    position behind it; NaN counts as larger than any number."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[Tensor] = []
        self._seen = 0

    @property
    def has_seen(self) -> bool:
        return bool(self._parts)

    def see(self, values: Tensor) -> None:
        if self._count == 1:
            values = values.amax(0, keepdim=True)
        self._parts.append(values)
        self._seen += len(values)
        # Seldom, because each sorts all that is kept.
        if self._seen >= 2 * self._count and len(self._parts) > 1:
            self.descending()

    def descending(self) -> Tensor:
        values = torch.cat(self._parts)
        values = values.topk(min(self._count, len(values)), 0).values
        self._parts, self._seen = [values], len(values)
        return values


def reduce_profile(maxima: dict[Site, Tensor], granularity: str) -> dict[Site, Tensor]:
    """Thresholds at the profile's maxima: one a layer, channel or neuron, or one a layer and a
    neuron-wise last site (``"hybrid"``, arXiv 2406.06313, section III-A)."""
    check_granularity(granularity)
    granularities = _granularities(list(maxima), granularity)
    return {site: _reduced(maximum, granularities[site]) for site, maximum in maxima.items()}


def check_granularity(granularity: str) -> None:
    if granularity not in GRANULARITIES:
        raise ValueError(f"a granularity is one of {', '.join(GRANULARITIES)}; got {granularity!r}")


def check_quantile(quantile: float) -> None:
    is_number = isinstance(quantile, (int, float)) and not isinstance(quantile, bool)
    if not is_number or not 0.0 < quantile <= 1.0:
        raise ValueError(f"a quantile is a share of the images in (0, 1], got {quantile!r}")


def _granularities(sites: Sequence[Site], granularity: str) -> dict[Site, str]:
    if granularity != "hybrid":
        return dict.fromkeys(sites, granularity)
    return {site: "neuron" if site == sites[-1] else "layer" for site in sites}


def _reduced(activations: Tensor, granularity: str, samples: bool = False) -> Tensor:
    """The largest in each layer or channel, or each neuron's own; for each sample, if there are."""
    first = int(samples)
    neurons = activations.dim() - first
    if granularity == "layer":
        return activations.flatten(first).amax(-1) if neurons else activations.clone()
    if granularity == "channel" and neurons > 1:
        return activations.amax(tuple(range(first + 1, activations.dim())), keepdim=True)
    return activations.clone()
