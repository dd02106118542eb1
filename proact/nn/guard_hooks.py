"""Attach guards on stored values to a model, and remove them: submodules and forward hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from proact.errors import ProactError
from proact.nn.error_correction import ErrorCorrection
from proact.nn.model_kinds import refuse_compiled, refuse_opaque
from proact.nn.module_copy import copy_model
from proact.nn.stored_guard import Guard, StoredGuard
from proact.nn.weight_range import WeightRange
from proact.ops.cuda_stream import is_capturing
from proact.ops.in_place_code import TensorCode
from proact.ops.scrub_plan import Scrubbed
from proact.text import short_repr

#: The kinds of guards in the order in which they act before a forward: errors are corrected before
#: values are compared with their range. After the forward, the order is reversed.
_KINDS: tuple[type[StoredGuard], ...] = (ErrorCorrection, WeightRange)


def add_weight_range(
    model: nn.Module, names: Sequence[str], granularity: str = "tensor", action: str = "zero"
) -> WeightRange:
    """Attaches a guard to ``model`` itself and returns it; an existing guard is replaced.

    The arguments are those of `WeightRange`; ``proact.protect.protect(model, "weight-range")``
    chooses the names, and works on a copy.

    Raises:
        ValueError: as `WeightRange`, and if another attribute of ``model`` is named
            ``weight_range``, or if ``model`` is compiled or TorchScript.
    """
    _refuse(model, WeightRange)
    return _attached(model, WeightRange(model, names, granularity, action))


def add_error_correction(
    model: nn.Module,
    label: str,
    codes: Mapping[str, TensorCode],
    replacement_codes: Mapping[int, TensorCode],
    every: int = 1,
    interval: float | None = None,
) -> ErrorCorrection:
    """Codes the tensors of ``model`` itself, attaches a guard and returns it.

    An existing guard is replaced. The arguments are those of `ErrorCorrection`;
    ``proact.protect.protect(model, "ecc")`` chooses them, and works on a copy.

    Raises:
        ValueError: as `ErrorCorrection`, and if another attribute of ``model`` is named
            ``error_correction``, or if ``model`` is compiled or TorchScript.
    """
    _refuse(model, ErrorCorrection)
    created = ErrorCorrection(model, label, codes, replacement_codes, every, interval)
    guard = _attached(model, created)
    guard.start(model)
    return guard


def remove_weight_range(model: nn.Module) -> None:
    """Removes the weight-range guard from ``model`` itself, if it has one."""
    _remove(model, WeightRange)


def remove_error_correction(model: nn.Module) -> None:
    """Removes the ecc guard from ``model`` itself, if it has one; words keep their check bits."""
    _remove(model, ErrorCorrection)


def without_weight_range(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without its weight-range guard, or ``model`` itself if it has none."""
    return _without(model, WeightRange)


def without_error_correction(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without its ecc guard, or ``model`` itself if it has none.

    The parameters of the copy keep their values, check bits included.
    """
    return _without(model, ErrorCorrection)


def weight_range_of(model: nn.Module) -> WeightRange | None:
    """The weight-range guard of ``model`` itself, or None; those of submodules do not count."""
    return WeightRange.of(model)


def error_correction_of(model: nn.Module) -> ErrorCorrection | None:
    """The ecc guard of ``model`` itself, or None; those of submodules do not count."""
    return ErrorCorrection.of(model)


def scrub(model: nn.Module) -> dict[str, Scrubbed]:
    """Scrubs a model with an ecc guard now.

    Returns:
        The numbers of corrected and of detected codewords of each tensor that had any.

    Raises:
        ValueError: ``model`` itself has no such guard.
        ProactError: memory of the model was converted or freed.
    """
    guard = error_correction_of(model)
    if guard is None:
        raise ValueError(
            f"{type(model).__name__} has no ecc guard: proact.protect.protect(model, 'ecc') adds it"
        )
    guard.scrub_model(model)
    return guard.last_scrub


def guards_on(model: nn.Module) -> list[StoredGuard]:
    """The guards of ``model`` itself, in the order in which they act before a forward."""
    return [g for g in (kind.of(model) for kind in _KINDS) if g is not None]


def without_guards(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without guards, or ``model`` itself if it has none."""
    return unguarded_copy(model) if guards_on(model) else model


def unguarded_copy(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``, without guards."""
    copied = copy_model(model)
    for guard in guards_on(copied):
        _remove(copied, type(guard))
    return copied


def _without(model: nn.Module, kind: type[StoredGuard]) -> nn.Module:
    if kind.of(model) is None:
        return model
    copied = copy_model(model)
    _remove(copied, kind)
    return copied


def _refuse(model: nn.Module, kind: type[StoredGuard]) -> None:
    """ValueError if ``model`` cannot have a guard."""
    guard = f"{'an' if kind.method[0] in 'aeiou' else 'a'} {kind.method} guard"
    refuse_opaque(model, guard)
    refuse_compiled(model, guard)
    if kind.of(model) is None and hasattr(model, kind.own_name):
        raise ValueError(
            f"{type(model).__name__} has an attribute {short_repr(kind.own_name)}, which is the "
            "name of the guard: rename the attribute"
        )


def _attached(model: nn.Module, guard: Guard) -> Guard:
    _remove(model, type(guard))
    model.add_module(guard.own_name, guard)
    _hook(model)
    return guard


def _remove(model: nn.Module, kind: type[StoredGuard]) -> None:
    guard = kind.of(model)
    if guard is not None:
        guard.finish()
        _unhook(model)
        delattr(model, kind.own_name)
        for other in guards_on(model):
            other.forget(kind.own_name)
        _hook(model)


def _hook(model: nn.Module) -> None:
    """Places one set of hooks for all guards of ``model``, so that their order is fixed."""
    _unhook(model)
    guards = guards_on(model)
    if not guards:
        return
    # The handles are stored, because a handle reserves its number when it is unpickled: otherwise
    # a later hook could take the same number.
    guards[0].handles = (
        model.register_forward_pre_hook(_before_forward, prepend=True),
        model.register_forward_hook(_after_forward, always_call=True),
        *(handle for guard in guards for handle in guard.more_hooks(model)),
    )


def _unhook(model: nn.Module) -> None:
    for guard in guards_on(model):
        for handle in guard.handles:
            handle.remove()
        guard.handles = ()


def _before_forward(model: nn.Module, inputs: Any) -> None:
    for guard in guards_on(model):
        guard.refuse_export()
        _uncompiled(_begin)(guard, model)


def _after_forward(model: nn.Module, inputs: Any, output: Any) -> None:
    for guard in reversed(guards_on(model)):
        _uncompiled(_end)(guard)


def _begin(guard: StoredGuard, model: nn.Module) -> None:
    if is_capturing():
        raise ProactError(
            f"a forward of a model with {guard.article} guard cannot be captured into a CUDA "
            f"graph, because the guard repairs memory before each forward: capture {guard.removal}"
        )
    guard.begin(model)


def _end(guard: StoredGuard) -> None:
    if not is_capturing():  # a forward that `_begin` refused
        guard.end()


def _uncompiled(function: Callable[..., None]) -> Callable[..., None]:
    """Excludes the guard from compiled graphs, without importing the compiler, which is slow."""
    if "torch._dynamo" not in sys.modules:
        return function
    uncompiled: Callable[..., None] = torch.compiler.disable(function)
    return uncompiled
