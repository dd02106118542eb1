"""Guards of one model placed on another, as protections are composed."""

from __future__ import annotations

from torch import nn

from proact.nn import error_correction_of, weight_range_of
from proact.protect.ecc import add_ecc
from proact.protect.weight_range import add_guard


def copy_guards(model: nn.Module, result: nn.Module) -> None:
    """Guards ``result`` as ``model`` is guarded, for its own values, except by guards it has.

    The bounds of weight-range are those of the coded values, because ecc comes last and measures
    them again.
    """
    bounds, words = weight_range_of(model), error_correction_of(result)
    has_new_bounds = bounds is not None and weight_range_of(result) is None
    if bounds is not None and has_new_bounds:
        add_guard(result, bounds.granularity, bounds.action)
    if words is None or has_new_bounds:
        words = words or error_correction_of(model)
        if words is not None:
            add_ecc(result, words.code, words.every, words.interval)
