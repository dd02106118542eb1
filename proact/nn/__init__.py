"""HyReLU as a module, activation sites (found and replaced), and guards on parameters."""

from proact.nn.guard_hooks import (
    add_weight_range,
    remove_weight_range,
    weight_range_of,
    without_weight_range,
)
from proact.nn.hyrelu import ClippedActivation, HyReLU
from proact.nn.site import Site
from proact.nn.sites import find_sites, observed, replace_sites
from proact.nn.weight_range import WeightRange

__all__ = [
    "ClippedActivation",
    "HyReLU",
    "Site",
    "WeightRange",
    "add_weight_range",
    "find_sites",
    "observed",
    "remove_weight_range",
    "replace_sites",
    "weight_range_of",
    "without_weight_range",
]
