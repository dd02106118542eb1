"""Attach a `WeightRange` guard to a model, and remove it: a submodule and two forward hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from proact.errors import ProactError
from proact.nn.model_kinds import refuse_compiled, refuse_opaque
from proact.nn.module_copy import copy_model
from proact.nn.weight_range import WeightRange

#: The name of the guard as a submodule of the model that it guards.
NAME = "weight_range"

_is_exporting = getattr(torch.compiler, "is_exporting", bool)  # absent from torch 2.6


def add_weight_range(
    model: nn.Module, names: Sequence[str], granularity: str = "tensor", action: str = "zero"
) -> WeightRange:
    """Attaches a guard to ``model`` itself and returns it; an existing guard is replaced.

    The arguments are those of `WeightRange`.

    Raises:
        ValueError: as `WeightRange`, and if another attribute of ``model`` is named
            ``weight_range``, or if ``model`` is compiled or TorchScript.
    """
    refuse_opaque(model, "a weight-range guard")
    refuse_compiled(model, "a weight-range guard")
    if weight_range_of(model) is None and hasattr(model, NAME):
        raise ValueError(
            f"{type(model).__name__} has an attribute {NAME!r}, which is the name of the guard: "
            "rename the attribute"
        )
    guard = WeightRange(model, names, granularity, action)
    remove_weight_range(model)
    model.add_module(NAME, guard)
    # The handles are stored, because a handle reserves its number when it is unpickled: otherwise
    # a later hook could take the same number.
    guard.handles = (
        model.register_forward_pre_hook(_before_forward, prepend=True),
        model.register_forward_hook(_after_forward, always_call=True),
    )
    return guard


def remove_weight_range(model: nn.Module) -> None:
    """Removes the guard from ``model`` itself, if it has one."""
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
    copied = copy_model(model)
    remove_weight_range(copied)
    return copied


def weight_range_of(model: nn.Module) -> WeightRange | None:
    """The guard of ``model`` itself, or None; guards of its submodules do not count."""
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
    """Excludes the guard from compiled graphs, without importing the compiler, which is slow."""
    if "torch._dynamo" not in sys.modules:
        return function
    uncompiled: Callable[..., None] = torch.compiler.disable(function)
    return uncompiled


def _refuse_export() -> None:
    if _is_exporting() or torch._C._get_tracing_state() is not None:
        raise ProactError(
            "a model with a weight-range guard cannot be exported, because the guard repairs "
            "memory before each forward: export proact.nn.without_weight_range(model)"
        )
