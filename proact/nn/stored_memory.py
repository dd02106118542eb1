"""Tell which parameters and buffers of a model a tensor shares memory with."""

from __future__ import annotations

from operator import attrgetter
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from proact.nn.object_walk import walk
from proact.nn.tensor_inventory import named_memories, stored_tensors
from proact.ops._memory import extent
from proact.ops.plain_memory import has_plain_memory


class StoredMemory:
    """The memory of all parameters and buffers of some models, also of counters and masks.

    Args:
        models: they and their tensors must stay where they are.
    """

    def __init__(self, *models: nn.Module) -> None:
        self._by_id: dict[int, set[str]] = {}
        self._extents: list[tuple[torch.device, int, int, str]] = []
        self._tensors: list[Tensor] = []  # keeps them, so that no other tensor gets their ids
        for model in models:
            for name, tensor in (
                *model.named_parameters(remove_duplicate=False),
                *model.named_buffers(remove_duplicate=False),
                *((name, tensor) for name, tensor, _ in named_memories(model)),
            ):
                self._add(name, tensor)

    def names_of(self, tensor: Tensor) -> set[str]:
        """The qualified names of the stored tensors that share an element with ``tensor``.

        Inner tensors of wrapper subclasses are named ``<parameter>.<attribute>``.
        """
        found = set(self._by_id.get(id(tensor), ()))
        if has_plain_memory(tensor) and tensor.numel():
            begin, end = extent(tensor)
            found |= {
                name
                for device, first, last, name in self._extents
                if begin < last and first < end and device == tensor.device
            }
        return found

    def _add(self, name: str, tensor: Tensor) -> None:
        self._tensors.append(tensor)
        self._by_id.setdefault(id(tensor), set()).add(name)
        if has_plain_memory(tensor) and tensor.numel():
            self._extents.append((tensor.device, *extent(tensor), name))


def tensors_reached(value: Any) -> list[Tensor]:
    """The tensors that a tensor, a module or a function of the user's refers to.

    Plain attributes, containers, closures and global variables are followed.
    """
    if isinstance(value, Tensor):
        return [value]
    if not isinstance(value, nn.Module):
        if not isinstance(value, FunctionType):
            return []
        holder = nn.Module()
        vars(holder)["function"] = value
        value = holder
    return [each for each in walk(value).objects.values() if isinstance(each, Tensor)]


class StoredReads:
    """Tells which stored tensors of a model a traced graph reads.

    Args:
        model: its tensors must stay where they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {
            name: stored.name for stored in stored_tensors(model) for name in stored.names
        }
        self._memory = StoredMemory(model)
        self._known: dict[Any, set[str]] = {}  # by the target of a node

    def of(self, graph: fx.GraphModule) -> frozenset[str]:
        """The names that fault records use (`StoredTensor.name`) of the tensors read by ``graph``.

        Args:
            graph: shares its modules and tensors with the model.
        """
        found: set[str] = set()
        for node in graph.graph.nodes:
            if node.op not in ("call_module", "get_attr", "call_function"):
                continue
            if node.target not in self._known:
                self._known[node.target] = self._read_by(graph, node.target)
            found |= self._known[node.target]
        return frozenset(found)

    def _read_by(self, graph: fx.GraphModule, target: Any) -> set[str]:
        """The stored tensors under a module or attribute, and those that share memory with it.

        A module or function may read a stored tensor through a plain attribute or a closure.
        """
        value = attrgetter(target)(graph) if isinstance(target, str) else target
        read = {name for tensor in tensors_reached(value) for name in self._memory.names_of(tensor)}
        if isinstance(target, str):
            read.add(target)
        return {
            stored
            for name, stored in self._names.items()
            if any(name == each or name.startswith(f"{each}.") for each in read)
        }
