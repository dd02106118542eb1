"""The profile: maxima and quantiles of the activations at each site over training samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.models.evaluation import examples
from proact.nn import Site, observed
from proact.nn.batches import Batch, cloned, split_batch
from proact.nn.forward import Forward, as_forward
from proact.nn.site import eval_mode
from proact.nn.sites import traced_sites
from proact.text import short_repr

GRANULARITIES = ("layer", "channel", "neuron", "hybrid")

_MOST_BYTES = 4 << 30
#: Peak memory for each kept number, in bytes: twice as many numbers are gathered, copied, and
#: sorted with their indices.
_PEAK_BYTES = 28


def profile(
    model: nn.Module,
    inputs: Batch | Split,
    batch: int = 256,
    kinds: Sequence[str] = ("relu",),
    forward: Forward | Callable[[nn.Module, Batch], object] | None = None,
    skip: Sequence[str] = (),
) -> dict[Site, Tensor]:
    """The exact maximum of every neuron at every site, in execution order.

    Args:
        model: runs in eval mode, without autograd; left as it was.
        inputs: (samples, ...), or a tuple or mapping of such tensors, preprocessed as for a test;
            or a `proact.data.Split`, whose targets are not read.
        batch: the number of samples that run at a time, at least 1; it changes speed and memory
            only.
        kinds, forward, skip: as for `proact.nn.find_sites`.

    Returns:
        For each site a tensor with the shape of one sample at the site.

    Raises:
        ValueError: as `proact.nn.find_sites`; activations that are not finite.
    """
    (maxima,) = profile_quantiles(model, inputs, "neuron", (1.0,), batch, kinds, forward, skip)
    return maxima


def profile_quantiles(
    model: nn.Module,
    inputs: Batch | Split,
    granularity: str,
    quantiles: Sequence[float],
    batch: int = 256,
    kinds: Sequence[str] = ("relu",),
    forward: Forward | Callable[[nn.Module, Batch], object] | None = None,
    skip: Sequence[str] = (),
) -> list[dict[Site, Tensor]]:
    """Thresholds at quantiles of the activations, exact and in one pass.

    The share ``quantile`` of the samples does not exceed a threshold anywhere in the layer, channel
    or neuron that it belongs to. Out of n samples, the floor((1 - quantile) n) with the largest
    activations exceed it, unless they are equal to it. As many numbers are kept for each threshold.

    Args:
        model, inputs, batch, kinds, forward, skip: as for `profile`.
        granularity: ``"layer"``, ``"channel"``, ``"neuron"`` or ``"hybrid"``.
        quantiles: in (0, 1]; 1 gives the maximum.

    Returns:
        For each quantile the threshold of each site, in execution order: () for a layer, the shape
        of one sample for neurons, and for channels this shape with 1 in place of all sizes but the
        first, such as (channels, 1, 1). Hybrid thresholds are those of a layer at every site but
        the last, and those of neurons there (arXiv 2406.06313, section III-A).

    Raises:
        ValueError: as `profile`; no quantile, one out of range, or one so low that the kept numbers
            would take more than 4 GiB.
    """
    check_granularity(granularity)
    for quantile in quantiles:
        check_quantile(quantile)
    if not quantiles:
        raise ValueError("quantiles: expected at least one, got none")
    split, how = inputs if isinstance(inputs, Split) else Split(inputs), as_forward(forward)
    samples = len(split)
    # The margin serves products such as (1 - 0.9) * 10, which round to just below an integer.
    ranks = [min(int((1.0 - quantile) * samples + 1e-9) + 1, samples) for quantile in quantiles]
    sites = traced_sites(model, examples(split), kinds, how, skip).sites
    granularities = _granularities(sites, granularity)
    thresholds = sum(_reduced(torch.empty(s.shape), g).numel() for s, g in granularities.items())
    if _PEAK_BYTES * max(ranks) * thresholds > _MOST_BYTES:
        raise ValueError(
            f"a quantile that {max(ranks) - 1} of {samples} images exceed needs more than "
            f"{_MOST_BYTES >> 30} GiB for {thresholds} thresholds: use a higher quantile, fewer "
            "images or a coarser granularity"
        )
    largest = {site: _LargestValues(max(ranks)) for site in sites}

    def observe(site: Site, output: Tensor) -> None:
        if granularities[site] != "layer" and output.shape[1:] != site.shape:
            raise ValueError(
                f"the activations at {short_repr(site.name)} have the shape {site.shape} for one "
                f"image and {tuple(output.shape[1:])} for each of several: use the granularity "
                "'layer' if their first dimension is not the batch, or if samples differ in length"
            )
        largest[site].add(_reduced(output, granularities[site], samples=True))

    watched = observed(model, sites, observe)
    with eval_mode(watched), torch.no_grad():
        for part in batches_of(split, batch):
            how(watched, cloned(part))
    for site, kept in largest.items():
        if not kept.has_values:
            raise ValueError(
                f"the activation {short_repr(site.name)} ran for the first training images but not "
                "for the batches: the model branches on its input"
            )
    sorted_ones = {site: kept.descending() for site, kept in largest.items()}
    for site, values in sorted_ones.items():
        if not torch.isfinite(values).all():
            raise ValueError(
                f"the activations at {short_repr(site.name)} are not finite on the training "
                "images: check the model's parameters and the range of the images"
            )
    return [
        {
            s: values[rank - 1].clone(memory_format=torch.contiguous_format)
            for s, values in sorted_ones.items()
        }
        for rank in ranks
    ]


def batches_of(split: Split, size: int) -> Iterator[Batch]:
    """The inputs in batches of ``size`` samples, or in the fixed batches of ``split``."""
    if split.batch_sizes is None:
        yield from split_batch(split.inputs, size)
    else:
        yield from (inputs for inputs, _ in split.batches(size))


class _LargestValues:
    """The ``count`` largest of all added values, at each position of the trailing dimensions.

    NaN counts as larger than any number.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[Tensor] = []
        self._count_added = 0

    @property
    def has_values(self) -> bool:
        return bool(self._parts)

    def add(self, values: Tensor) -> None:
        if self._count == 1:
            values = values.amax(0, keepdim=True)
        self._parts.append(values)
        self._count_added += len(values)
        # Rarely, because each call sorts all kept values.
        if self._count_added >= 2 * self._count and len(self._parts) > 1:
            self.descending()

    def descending(self) -> Tensor:
        """The largest values, (count, ...), the largest first."""
        values = torch.cat(self._parts)
        values = values.topk(min(self._count, len(values)), 0).values
        self._parts, self._count_added = [values], len(values)
        return values


def check_granularity(granularity: str) -> None:
    """Raises ValueError unless ``granularity`` is one of `GRANULARITIES`."""
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"granularity is one of {', '.join(GRANULARITIES)}; got {short_repr(granularity)}"
        )


def check_quantile(quantile: float) -> None:
    """Raises ValueError unless ``quantile`` is a number in (0, 1]."""
    is_number = isinstance(quantile, (int, float)) and not isinstance(quantile, bool)
    if not is_number or not 0.0 < quantile <= 1.0:
        raise ValueError(
            f"a quantile is a share of the images in (0, 1], got {short_repr(quantile)}"
        )


def _granularities(sites: Sequence[Site], granularity: str) -> dict[Site, str]:
    if granularity != "hybrid":
        return dict.fromkeys(sites, granularity)
    return {site: "neuron" if site == sites[-1] else "layer" for site in sites}


def _reduced(activations: Tensor, granularity: str, samples: bool = False) -> Tensor:
    """The largest activation of each layer or channel, or the activations of all neurons.

    ``samples`` says whether the first dimension counts samples, which are reduced one by one.
    """
    first = int(samples)
    neurons = activations.dim() - first
    if granularity == "layer":
        # Not flattened, which would copy activations in the channels-last order.
        dimensions = tuple(range(first, activations.dim()))
        return activations.amax(dimensions) if neurons else activations.clone()
    if granularity == "channel" and neurons > 1:
        return activations.amax(tuple(range(first + 1, activations.dim())), keepdim=True)
    return activations.clone()
