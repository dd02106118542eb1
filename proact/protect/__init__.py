"""Protection methods for trained models, one module for each method, and their cost.

README.md in this directory lists where the methods depart from their papers.
"""

from proact.protect.cost import Cost, cost, latency_ratio
from proact.protect.methods import (
    check_options,
    methods,
    protect,
    resumable_methods,
    trained_methods,
)
from proact.protect.profile import GRANULARITIES, profile, profile_quantiles
from proact.protect.serialization import Protection, load, protection_of, save
from proact.protect.threshold_counts import threshold_counts

__all__ = [
    "GRANULARITIES",
    "Cost",
    "Protection",
    "check_options",
    "cost",
    "latency_ratio",
    "load",
    "methods",
    "profile",
    "profile_quantiles",
    "protect",
    "protection_of",
    "resumable_methods",
    "save",
    "threshold_counts",
    "trained_methods",
]
