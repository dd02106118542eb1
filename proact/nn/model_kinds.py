"""Kinds of models that some functions refuse: lazy, scripted and compiled ones."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def checked_module(model: nn.Module, name: str = "model") -> nn.Module:
    """Returns ``model``, or raises TypeError unless it is a torch module; ``name`` says whose."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}: expected a torch.nn.Module, got {type(model).__name__}")
    return model


def refuse_lazy(model: nn.Module) -> None:
    """Raises ValueError if ``model`` has a lazy layer that has seen no input; TypeError unless it
    is a torch module."""
    checked_module(model)
    for members in (model.named_parameters(), model.named_buffers()):
        for name, tensor in members:
            if is_lazy(tensor):
                raise ValueError(f"{name} has no shape yet: run the model on one batch first")


def renormalised_layers(model: nn.Module) -> dict[str, float]:
    """The embeddings whose forward passes scale rows of their weight down to a norm, by name."""
    return {
        name: float(module.max_norm)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None
    }


def refuse_renormalised(
    renormalised: Mapping[str, float], layers: Iterable[str], what: str
) -> None:
    """Raises ValueError if one of ``layers`` writes to its weight in forward passes.

    Args:
        renormalised: the result of `renormalised_layers`.
        layers: qualified names of modules.
        what: the work that it disturbs, as the subject of a sentence.
    """
    for name in layers:
        if name in renormalised:
            raise ValueError(
                f"{what} needs weights that forward passes leave alone, and {_place(name)} scales "
                f"rows of its weight down to max_norm={renormalised[name]:g} in each forward pass: "
                "set max_norm=None, after a forward pass over all rows"
            )


def refuse_opaque(model: nn.Module, what: str) -> None:
    """Raises ValueError if a part of ``model`` does not run as Python modules.

    Args:
        what: the work that needs Python modules, as the subject of a sentence: ``"protection"``.
    """
    for name, module in checked_module(model).named_modules():
        kind = ""
        if isinstance(module, torch.jit.ScriptModule):
            kind = "a TorchScript module"
        elif isinstance(module, torch.fx.GraphModule) and "eval" in vars(module):
            kind = "the module of a torch.export program"
        if kind:
            raise ValueError(
                f"{what} needs modules that run in Python, and {_place(name)} is {kind}: give the "
                "nn.Module that it was made from"
            )


def refuse_compiled(model: nn.Module, what: str, layers: Iterable[str] = ("",)) -> None:
    """Raises ValueError if one of ``layers`` runs inside a compiled graph, which runs no hooks.

    Args:
        what: the work that needs hooks, as the subject of a sentence.
        layers: qualified names of modules of ``model``.
    """
    for name, module in checked_module(model).named_modules():
        prefix = f"{name}." if name else ""
        if is_compiled(module) and any(f"{layer}.".startswith(prefix) for layer in layers):
            raise ValueError(
                f"{what} needs hooks, which a compiled graph does not run, and {_place(name)} is "
                "compiled: give the model as it was before torch.compile"
            )


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` itself runs as a compiled graph."""
    return (
        is_compiled_module(module)
        or vars(module).get("_compiled_call_impl") is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def is_compiled_module(module: nn.Module) -> bool:
    """Whether ``module`` is the result of ``torch.compile(model)``."""
    # Without importing the compiler, which is slow.
    compiler: Any = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def _place(name: str) -> str:
    return repr(name) if name else "the model"
