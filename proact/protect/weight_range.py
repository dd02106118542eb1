"""weight-range: bounds of the stored values. The method is ours, after Ranger's activation bounds.

Z. Chen, G. Li, K. Pattabiraman, "A Low-cost Fault Corrector for Deep Neural Networks through Range
Restriction", arXiv 2003.13874, bounds activations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from proact.nn import WeightRange, add_weight_range
from proact.nn.model_kinds import refuse_renormalised, renormalised_layers
from proact.nn.tensor_inventory import stored_tensors
from proact.nn.weight_range import GRANULARITIES, can_be_bounded
from proact.ops.plain_memory import has_plain_memory
from proact.ops.range_plan import checked_action
from proact.protect.method import GuardMethod
from proact.text import short_repr


@dataclass(frozen=True)
class WeightRangeOptions:
    """Options of ``protect(model, "weight-range", ...)``.

    Attributes:
        granularity: ``"tensor"`` for two bounds for each stored tensor, or ``"channel"`` for two
            bounds for each output channel of tensors with two dimensions or more.
        action: ``"zero"`` (a value outside becomes the number nearest to 0 within the bounds, which
            is 0 unless all trained values have one sign) or ``"saturate"`` (it becomes the bound).
    """

    granularity: str = "tensor"
    action: str = "zero"

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise ValueError(
                f"the granularity of weight-range is {' or '.join(GRANULARITIES)}, got "
                f"{short_repr(self.granularity)}"
            )
        checked_action(self.action)


def weight_range(
    model: nn.Module, options: WeightRangeOptions, report: Callable[[str], None]
) -> nn.Module:
    """Guards ``model`` itself, which has no guard yet, and returns it."""
    guard = add_guard(model, options.granularity, options.action)
    report(f"{len(guard.names)} tensors guarded by {2 * guard.low.numel()} bounds")
    return model


def add_guard(model: nn.Module, granularity: str, action: str) -> WeightRange:
    """Guards every floating-point tensor that ``model`` stores, thresholds too, except bounds.

    Tensors without plain memory, such as sparse ones, are not guarded, because faults cannot hit
    them. Floats of 8 bits are not guarded either; a warning names them.
    """
    renormalised = renormalised_layers(model)
    refuse_renormalised(renormalised, renormalised, "weight-range")
    floats = {
        stored.name: stored.tensor
        for stored in stored_tensors(model)
        if stored.kind != "bound"
        and stored.tensor.is_floating_point()
        and has_plain_memory(stored.tensor)
    }
    names = [name for name, tensor in floats.items() if can_be_bounded(tensor)]
    if left := [f"{name} ({tensor.dtype})" for name, tensor in floats.items() if name not in names]:
        warnings.warn(
            f"weight-range does not guard {', '.join(left)}, because it bounds floats of 16 to 64 "
            "bits: faults in these tensors stay",
            stacklevel=2,
        )
    return add_weight_range(model, names, granularity, action)


METHOD = GuardMethod(weight_range, WeightRangeOptions)
