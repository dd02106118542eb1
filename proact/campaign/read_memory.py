"""Watch which memory a forward pass reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from proact.nn.inner_tensors import inner_tensors
from proact.nn.tensor_inventory import named_scales_beside

#: A storage: its device and the address of its first byte.
Storage: TypeAlias = tuple[str, int]


def storages_read(model: nn.Module, run: Callable[[], object]) -> dict[Storage, str]:
    """The storages that operators of a forward pass read, with the module that was running.

    Compiled graphs run operator by operator here. Code that is not made of torch's operators is not
    seen, such as numpy, or a native extension that takes addresses.
    """
    found: dict[Storage, str] = {}
    running: list[str] = []

    class _Reads(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            # Otherwise torch would import its compiler, which takes longer than the pass.
            return "torch._dynamo" in sys.modules

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            for leaf in pytree.tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    for storage in storages_of(leaf):
                        found.setdefault(storage, running[-1] if running else "")
            return func(*args, **(kwargs or {}))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            hooks.callback(
                module.register_forward_pre_hook(
                    lambda module, args, name=name: running.append(name)
                ).remove
            )
            hooks.callback(
                module.register_forward_hook(
                    lambda module, args, output: _leave(running), always_call=True
                ).remove
            )
        with _Reads():  # type: ignore[no-untyped-call]
            run()
    return found


def _leave(running: list[str]) -> None:
    running.pop()


def storages_of(tensor: Tensor) -> Iterator[Storage]:
    """The storages in which a tensor keeps its numbers; none for tensors without memory."""
    for _, inner in inner_tensors("", tensor):
        if inner.layout != torch.strided:
            continue
        try:
            address = inner.untyped_storage().data_ptr()
        except (RuntimeError, NotImplementedError):
            continue
        if address:
            yield str(inner.device), address


def storages_by_name(model: nn.Module) -> dict[Storage, str]:
    """The storages of parameters, buffers and scales, with the name of a tensor in each."""
    found: dict[Storage, str] = {}
    members: Iterable[tuple[str, Tensor]] = (
        *model.named_parameters(),
        *model.named_buffers(),
        *named_scales_beside(model),
    )
    for name, tensor in members:
        for storage in storages_of(tensor):
            found.setdefault(storage, name)
    return found
