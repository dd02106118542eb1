"""How many thresholds each granularity stores, before any is chosen."""

from __future__ import annotations

from collections.abc import Sequence

from proact.nn import Site
from proact.protect.profile import GRANULARITIES


def threshold_counts(sites: Sequence[Site]) -> dict[str, int]:
    """Thresholds by granularity, for sites in execution order.

    ``"hybrid"`` is a scalar a layer and a threshold a neuron at the last site (arXiv 2406.06313,
    section III-A); how many times fewer it takes than ``"neuron"`` is the paper's claim on memory.
    """
    neurons = [site.neurons for site in sites]
    counts = {
        "layer": len(sites),
        "channel": sum(site.shape[0] if site.shape else 1 for site in sites),
        "neuron": sum(neurons),
        "hybrid": len(sites) - 1 + neurons[-1],
    }
    return {granularity: counts[granularity] for granularity in GRANULARITIES}
