"""Putting a `WeightRange` on a network and taking it off: a submodule, and hooks of the network."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from proact.errors import ProactError
from proact.nn.weight_range import WeightRange

#: The guard's name in the network that it guards.
NAME = "weight_range"

_is_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch 2.6 cannot tell


def add_weight_range(
    model: nn.Module, names: Sequence[str], granularity: str = "tensor", action: str = "zero"
) -> WeightRange:
    """Guards ``model`` itself, in place of a guard that it has; the arguments are `WeightRange`'s.

    ValueError also where something else in the network has the name ``weight_range``.
    """
    if weight_range_of(model) is None and hasattr(model, NAME):
        raise ValueError(
            f"{type(model).__name__} has a {NAME!r} of its own: there is no name for the guard"
        )
    guard = WeightRange(model, names, granularity, action)
    remove_weight_range(model)
    model.add_module(NAME, guard)
    # A handle keeps its number when it is loaded from a file, so that no later hook takes it.
    guard.handles = (
        model.register_forward_pre_hook(_before_forward, prepend=True),
        model.register_forward_hook(_after_forward, always_call=True),
    )
    return guard


def remove_weight_range(model: nn.Module) -> None:
    """Takes the guard off ``model`` itself, where it has one."""
    guard = weight_range_of(model)
    if guard is not None:
        guard.finish()
        for handle in guard.handles:
            handle.remove()
        delattr(model, NAME)


def without_weight_range(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without its guard, or ``model`` itself if it has no guard."""
    return model if weight_range_of(model) is None else unguarded_copy(model)


def unguarded_copy(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``, without the guard if it has one."""
    copied = copy.deepcopy(model)
    remove_weight_range(copied)
    return copied


def weight_range_of(model: nn.Module) -> WeightRange | None:
    """The guard of ``model`` itself; those of its submodules are their own."""
    guard = model._modules.get(NAME)
    return guard if isinstance(guard, WeightRange) else None


def _before_forward(model: nn.Module, inputs: Any) -> None:
    guard = weight_range_of(model)
    if guard is not None:
        _refuse_export()
        _uncompiled(guard.begin)(model)


def _after_forward(model: nn.Module, inputs: Any, output: Any) -> None:
    guard = weight_range_of(model)
    if guard is not None:
        _uncompiled(guard.end)()


def _uncompiled(function: Callable[..., None]) -> Callable[..., None]:
    """Keeps what repairs memory out of compiled graphs, and loads no compiler, which takes long."""
    if "torch._dynamo" not in sys.modules:
        return function
    uncompiled: Callable[..., None] = torch.compiler.disable(function)
    return uncompiled


def _refuse_export() -> None:
    if _is_exporting() or torch._C._get_tracing_state() is not None:
        raise ProactError(
            "an exported network has no weight-range guard, which repairs memory before each "
            "forward: export proact.nn.without_weight_range(model), or guard where it runs"
        )
