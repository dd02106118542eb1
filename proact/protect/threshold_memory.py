"""The number of thresholds that each granularity stores."""

from __future__ import annotations

from collections.abc import Sequence

from proact.nn import Site
from proact.protect.activation_profile import GRANULARITIES


def threshold_counts(sites: Sequence[Site]) -> dict[str, int]:
    """The number of thresholds by granularity, for at least one site, in execution order.

    ``"hybrid"`` has one threshold for each layer, and one for each neuron of the last site (arXiv
    2406.06313, section III-A). The ratio of ``"neuron"`` to ``"hybrid"`` is the memory saving that
    the paper claims.

    Raises:
        ValueError: no site.
    """
    if not sites:
        raise ValueError("sites: expected at least one, got none")
    neurons = [site.neurons for site in sites]
    counts = {
        "layer": len(sites),
        "channel": sum(site.shape[0] if site.shape else 1 for site in sites),
        "neuron": sum(neurons),
        "hybrid": len(sites) - 1 + neurons[-1],
    }
    return {granularity: counts[granularity] for granularity in GRANULARITIES}
