"""Clipped activations and guarded parameters: one file a method, and what they cost.

Deviations from the papers are listed in README.md beside this file.
"""

from proact.protect.cost import Cost, cost
from proact.protect.memory import threshold_counts
from proact.protect.methods import check_options, methods, protect
from proact.protect.profile import GRANULARITIES, profile

__all__ = [
    "GRANULARITIES",
    "Cost",
    "check_options",
    "cost",
    "methods",
    "profile",
    "protect",
    "threshold_counts",
]
