"""Kinds of models that some functions refuse: lazy, scripted and compiled ones."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def refuse_lazy(model: nn.Module) -> None:
    """Raises ValueError if ``model`` has a lazy layer that has seen no input."""
    for members in (model.named_parameters(), model.named_buffers()):
        for name, tensor in members:
            if is_lazy(tensor):
                raise ValueError(f"{name} has no shape yet: run the model on one batch first")


def refuse_scripted(model: nn.Module, what: str) -> None:
    """Raises ValueError if a module of ``model`` is TorchScript.

    Args:
        what: names the work that needs Python modules, as in ``"protection"``.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{what} needs Python modules, and {_place(name)} is a TorchScript module: give "
                "the nn.Module that it was made from"
            )


def refuse_compiled(model: nn.Module, what: str) -> None:
    """Raises ValueError if a module of ``model`` is compiled, so that no hook runs inside it."""
    for name, module in model.named_modules():
        if is_compiled(module):
            raise ValueError(
                f"{what} needs modules that run one by one, and {_place(name)} is compiled: give "
                "the model that was not compiled (torch.compile its result)"
            )


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` itself runs as a compiled graph."""
    return (
        is_compiled_module(module)
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def is_compiled_module(module: nn.Module) -> bool:
    """Whether ``module`` is the result of ``torch.compile(model)``."""
    # Without importing the compiler, which is slow.
    compiler: Any = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def _place(name: str) -> str:
    return repr(name) if name else "the model"
