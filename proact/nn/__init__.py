"""HyReLU as a module, activation sites (found and replaced), and guards on parameters."""

from proact.nn.error_correction import ErrorCorrection
from proact.nn.guard_hooks import (
    add_error_correction,
    add_weight_range,
    error_correction_of,
    remove_error_correction,
    remove_weight_range,
    scrub,
    weight_range_of,
    without_error_correction,
    without_weight_range,
)
from proact.nn.hyrelu import ClippedActivation, HyReLU
from proact.nn.site import Site
from proact.nn.sites import find_sites, observed, replace_sites
from proact.nn.weight_range import WeightRange

__all__ = [
    "ClippedActivation",
    "ErrorCorrection",
    "HyReLU",
    "Site",
    "WeightRange",
    "add_error_correction",
    "add_weight_range",
    "error_correction_of",
    "find_sites",
    "observed",
    "remove_error_correction",
    "remove_weight_range",
    "replace_sites",
    "scrub",
    "weight_range_of",
    "without_error_correction",
    "without_weight_range",
]
