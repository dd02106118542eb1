"""Protection methods for trained models, one module for each method, and their cost.

README.md in this directory lists where the methods depart from their papers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.protect.activation_profile import GRANULARITIES, profile, profile_quantiles
    from proact.protect.interface import (
        check_options,
        methods,
        protect,
        resumable_methods,
        trained_methods,
    )
    from proact.protect.objective import pixel_accuracy, token_accuracy, token_cross_entropy
    from proact.protect.plan_result import Plan, PlanRow, UnmeasuredCandidate
    from proact.protect.planner import plan
    from proact.protect.protection_cost import Cost, cost, latency_ratio
    from proact.protect.serialization import Protection, load, protection_of, save
    from proact.protect.threshold_memory import threshold_counts

__all__ = [
    "GRANULARITIES",
    "Cost",
    "Plan",
    "PlanRow",
    "Protection",
    "UnmeasuredCandidate",
    "check_options",
    "cost",
    "latency_ratio",
    "load",
    "methods",
    "pixel_accuracy",
    "plan",
    "profile",
    "profile_quantiles",
    "protect",
    "protection_of",
    "resumable_methods",
    "save",
    "threshold_counts",
    "token_accuracy",
    "token_cross_entropy",
    "trained_methods",
]

__getattr__ = lazy_names(
    __name__,
    {
        "GRANULARITIES": "activation_profile",
        "Cost": "protection_cost",
        "Plan": "plan_result",
        "PlanRow": "plan_result",
        "Protection": "serialization",
        "UnmeasuredCandidate": "plan_result",
        "check_options": "interface",
        "cost": "protection_cost",
        "latency_ratio": "protection_cost",
        "load": "serialization",
        "methods": "interface",
        "pixel_accuracy": "objective",
        "plan": "planner",
        "profile": "activation_profile",
        "profile_quantiles": "activation_profile",
        "protect": "interface",
        "protection_of": "serialization",
        "resumable_methods": "interface",
        "save": "serialization",
        "threshold_counts": "threshold_memory",
        "token_accuracy": "objective",
        "token_cross_entropy": "objective",
        "trained_methods": "interface",
    },
)
