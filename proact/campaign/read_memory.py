"""Watch which memory a forward pass reads and writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from proact.nn.inner_tensors import inner_tensors
from proact.nn.object_walk import walk
from proact.nn.stored_guard import StoredGuard
from proact.nn.tensor_inventory import named_scales_beside

#: A storage: its device and the address of its first byte.
Storage: TypeAlias = tuple[str, int]


@dataclass
class WatchedMemory:
    """The storages that operators of a forward pass use, with the module that was running.

    Attributes:
        read: storages that an operator reads.
        kept: those that held values before the pass, inputs included.
        written: storages that an operator writes in place.
    """

    read: dict[Storage, str] = field(default_factory=dict)
    kept: dict[Storage, str] = field(default_factory=dict)
    written: dict[Storage, str] = field(default_factory=dict)


def memory_used(model: nn.Module, run: Callable[[], object]) -> WatchedMemory:
    """Watch the operators of a forward pass.

    Compiled graphs run operator by operator here. Code that is not made of torch's operators is not
    seen, such as numpy, or a native extension that takes addresses.

    Args:
        model: the model that runs.
        run: the forward pass.
    """
    use = WatchedMemory()
    running: list[str] = []
    made: set[Storage] = set()
    has_guards = any(isinstance(module, StoredGuard) for module in model.modules())

    def is_of_guard() -> bool:
        """Whether a guard of the model may be writing, before or after its forward."""
        return not running or (has_guards and running[-1] == "")

    class _Operators(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            # Otherwise torch would import its compiler, which takes longer than the pass.
            return "torch._dynamo" in sys.modules

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            module = running[-1] if running else ""
            for storage in _storages_in((args, kwargs)):
                use.read.setdefault(storage, module)
                if storage in made:
                    continue
                if func is torch.ops.aten.lift_fresh.default:  # of a constant such as torch.tensor
                    made.add(storage)
                else:
                    use.kept.setdefault(storage, module)
            if not is_of_guard():
                for written in _written_by(func, args, kwargs or {}):
                    use.written.setdefault(written, module)
            output = func(*args, **(kwargs or {}))
            made.update(each for each in _storages_in(output) if each not in use.kept)
            return output

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
        with _Operators():  # type: ignore[no-untyped-call]
            run()
    return use


def _leave(running: list[str]) -> None:
    running.pop()


def _storages_in(tree: Any) -> Iterator[Storage]:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield from storages_of(leaf)


def _written_by(func: Any, args: Any, kwargs: Any) -> Iterator[Storage]:
    """The storages that an operator writes, by its schema."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[number] if number < len(args) else kwargs.get(argument.name)
            yield from _storages_in(given)


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


def unregistered_tensors(model: nn.Module, use: WatchedMemory) -> dict[tuple[str, str], Tensor]:
    """The floating-point tensors with two numbers or more that the pass reads from attributes of a
    model, and that are neither parameters nor buffers: by module and attribute."""
    registered = storages_by_name(model)
    guards = {name for name, each in model.named_modules() if isinstance(each, StoredGuard)}
    graph = walk(model)
    found: dict[tuple[str, str], Tensor] = {}
    for number, value in graph.objects.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < 2:
            continue
        owner = graph.owners.get(number)
        storages = set(storages_of(value))
        is_read = not storages.isdisjoint(use.kept) and storages.isdisjoint(registered)
        if owner is not None and owner[0] not in guards and is_read:
            found.setdefault(owner, value)
    return found
