"""Compare two runs of a model module by module, to name the module in which they part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from proact.nn.model_kinds import is_compiled
from proact.nn.outputs import output_tensors
from proact.text import short_repr

#: Tells whether two tensors, of the first and the second run, are alike; None if it cannot.
Comparison: TypeAlias = Callable[[Tensor, Tensor], bool | None]


@dataclass(frozen=True)
class _Call:
    module: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def parting_module(
    model: nn.Module,
    first: Callable[[], object],
    second: Callable[[], object],
    are_alike: Comparison,
) -> str:
    """Name the innermost module that gives other outputs for the same inputs in the second run.

    Returns:
        The module as text, such as ``'features.3' (Dropout)``; the whole model if no module inside
        it explains the difference.
    """
    calls, others = _calls(model, first), _calls(model, second)
    for call, other in zip(calls, others, strict=False):
        if call.module != other.module:
            break
        same_inputs = _alike(call.inputs, other.inputs, are_alike)
        if same_inputs and _alike(call.outputs, other.outputs, are_alike) is False:
            return described(model, call.module)
    return described(model, "")


def described(model: nn.Module, name: str) -> str:
    """A module as text, by its qualified name and class."""
    kind = type(dict(model.named_modules())[name]).__name__
    return f"{short_repr(name)} ({kind})" if name else f"the whole model ({kind})"


def _calls(model: nn.Module, run: Callable[[], object]) -> list[_Call]:
    """The calls of modules in a run, in the order in which they end."""
    calls: list[_Call] = []
    pending: list[list[Tensor]] = []

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        # Copies, because a module may change its input.
        pending.append([tensor.clone() for tensor in output_tensors((args, kwargs))])

    def end(name: str, output: Any) -> None:
        calls.append(
            _Call(name, pending.pop(), [tensor.clone() for tensor in output_tensors(output)])
        )

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule) or is_compiled(module):
                continue
            hooks.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            hooks.callback(
                module.register_forward_hook(
                    lambda module, args, output, name=name: end(name, output)
                ).remove
            )
        run()
    return calls


def _alike(
    tensors: Sequence[Tensor], others: Sequence[Tensor], are_alike: Comparison
) -> bool | None:
    if len(tensors) != len(others):
        return False
    found = [are_alike(tensor, other) for tensor, other in zip(tensors, others, strict=True)]
    return False if False in found else None if None in found and found else True
