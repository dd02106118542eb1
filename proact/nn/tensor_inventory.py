"""What a network stores: its tensors by name, layer and kind, each memory once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from proact.nn.hyrelu import HyReLU
from proact.nn.weight_range import WeightRange

#: What a stored tensor can be.
KINDS = ("weight", "bias", "normalisation", "statistics", "threshold", "bound", "other")

#: Integers of these types are stored numbers of a quantised network. Wider ones and booleans are
#: counters, indices and masks, which are no parameters.
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32)

_NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One memory of a network.

    Attributes:
        name: its first qualified name, which also decides the faults that it gets.
        names: all of its names; more than one for tied parameters.
        tensor: the memory itself, detached: any shape and dtype.
        layer: the qualified name of the module that holds it; ``""`` for the network.
        layer_types: the names of that module's class and its base classes.
        kind: one of `KINDS`.
        is_buffer: whether it is a buffer, not a parameter.
    """

    name: str
    names: tuple[str, ...]
    tensor: Tensor
    layer: str
    layer_types: tuple[str, ...]
    kind: str
    is_buffer: bool


def checked_network(model: nn.Module) -> nn.Module:
    """``model``; TypeError for anything else than a network."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"faults go into a torch.nn.Module, got {type(model).__name__}")
    return model


def activation(name: str, tensor: Tensor) -> StoredTensor:
    """An activation as an encoding sees it."""
    return StoredTensor(name, (name,), tensor, name, (), "activation", True)


def named_memories(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """(name, tensor, is it a buffer) of all that a network stores, tied tensors under each name.

    Parameters first, then the buffers that hold numbers.
    """
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, parameter, False
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if buffer.is_floating_point() or buffer.dtype in INTEGERS:
            yield name, buffer, True


def stored_tensors(model: nn.Module) -> list[StoredTensor]:
    """Every memory of a network once, in the order of `named_memories`; empty tensors are left out.

    Raises:
        ValueError: tensors that share a part of their memory.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    names: dict[tuple[object, ...], list[str]] = {}
    found: dict[tuple[object, ...], tuple[str, Tensor, bool]] = {}
    for name, tensor, is_buffer in named_memories(model):
        if tensor.numel():
            key = _identity(tensor)
            names.setdefault(key, []).append(name)
            found.setdefault(key, (name, tensor.detach(), is_buffer))
    _refuse_partly_shared([(name, tensor) for name, tensor, _ in found.values()])
    stored = []
    for key, (name, tensor, is_buffer) in found.items():
        layer, _, leaf = name.rpartition(".")
        # What a weight is computed from belongs to the layer that computes it.
        layer = f".{layer}".partition(".parametrizations")[0].removeprefix(".")
        module = modules[layer]
        types = types_of(module)
        kind = _kind(module, name, leaf, is_buffer)
        stored.append(StoredTensor(name, tuple(names[key]), tensor, layer, types, kind, is_buffer))
    return stored


def types_of(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's class and of its base classes, the class first."""
    return tuple(c.__name__ for c in type(module).__mro__ if issubclass(c, nn.Module))


def _identity(tensor: Tensor) -> tuple[object, ...]:
    if not has_memory(tensor):
        return (id(tensor),)  # refused later, by name
    return (tensor.device, tensor.data_ptr(), tensor.numel() * tensor.element_size())


def _kind(module: nn.Module, name: str, leaf: str, is_buffer: bool) -> str:
    if leaf.startswith("original") and ".parametrizations." in f".{name}":
        leaf = name.split(".")[-2]  # weight_norm and its like keep a weight's parts there
    if leaf in ("running_mean", "running_var"):
        return "statistics"
    if isinstance(module, WeightRange):
        return "bound"
    if isinstance(module, HyReLU) or leaf == "threshold":
        return "threshold"
    if not is_buffer and (
        isinstance(module, _NORMALISATIONS) or type(module).__name__.lower().endswith("norm")
    ):
        return "normalisation"
    return "bias" if "bias" in leaf else "weight" if "weight" in leaf else "other"


def _refuse_partly_shared(tensors: list[tuple[str, Tensor]]) -> None:
    extents = sorted(
        (str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + _bytes(tensor), name)
        for name, tensor in tensors
        if has_memory(tensor)
    )
    for (device, _, end, before), (other, begin, _, after) in pairwise(extents):
        if device == other and begin < end and begin != 0:
            raise ValueError(
                f"{before} and {after} share a part of their memory, so that their bits cannot be "
                "told apart"
            )


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has plain memory: not sparse, not on meta, not fake."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and not isinstance(tensor, FakeTensor)
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
