"""Run Monte-Carlo campaigns: variants x faults x trials, stored as they are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.campaign.bit_search import SearchOptions, worst_case
    from proact.campaign.engine import run
    from proact.campaign.gradient_ranking import Criticality, TensorCriticality, criticality
    from proact.campaign.malloc_tuning import keep_freed_memory
    from proact.campaign.metrics import Metric
    from proact.campaign.options import CampaignOptions, RunOptions
    from proact.campaign.progress import CampaignProgress
    from proact.campaign.sweeps import per_bit, per_layer

__all__ = [
    "CampaignOptions",
    "CampaignProgress",
    "Criticality",
    "Metric",
    "RunOptions",
    "SearchOptions",
    "TensorCriticality",
    "criticality",
    "keep_freed_memory",
    "per_bit",
    "per_layer",
    "run",
    "worst_case",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CampaignOptions": "options",
        "CampaignProgress": "progress",
        "Criticality": "gradient_ranking",
        "Metric": "metrics",
        "RunOptions": "options",
        "SearchOptions": "bit_search",
        "TensorCriticality": "gradient_ranking",
        "criticality": "gradient_ranking",
        "keep_freed_memory": "malloc_tuning",
        "per_bit": "sweeps",
        "per_layer": "sweeps",
        "run": "engine",
        "worst_case": "bit_search",
    },
)
