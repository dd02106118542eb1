"""List the tensors that a model stores, by name, layer and kind, each memory once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proact.nn.hyrelu import HyReLU
from proact.nn.inner_tensors import inner_tensors, scales_beside
from proact.nn.model_kinds import refuse_lazy
from proact.nn.stored_guard import StoredGuard
from proact.ops._memory import extent
from proact.ops.plain_memory import has_plain_memory
from proact.text import check_name

#: The kinds of stored tensors.
KINDS = ("weight", "bias", "normalisation", "statistics", "threshold", "bound", "scale", "other")

#: Integer buffers of these types store the numbers of a quantised model. Wider integers and
#: booleans are counters, indices and masks, and are left out.
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32)

_NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A parameter or buffer of a model.

    Attributes:
        name: the first qualified name. It also determines the faults that hit the tensor. An inner
            tensor of a wrapper subclass is named ``<parameter>.<attribute>``.
        names: all qualified names; tied parameters have several.
        tensor: the memory itself, detached, of any shape and dtype.
        layer: the qualified name of the module that holds it; ``""`` for the model itself.
        layer_types: the names of the class of this module and of its base classes.
        kind: one of `KINDS`.
        is_buffer: whether it is a buffer and not a parameter.
    """

    name: str
    names: tuple[str, ...]
    tensor: Tensor
    layer: str
    layer_types: tuple[str, ...]
    kind: str
    is_buffer: bool


def activation(name: str, tensor: Tensor) -> StoredTensor:
    """An activation, described as encodings expect it."""
    return StoredTensor(name, (name,), tensor, name, (), "activation", True)


def named_memories(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Yields (name, tensor, whether it is a buffer) for each tensor that ``model`` stores.

    Parameters come first, then the buffers that hold numbers. Tied tensors appear under each name.
    Wrapper subclasses are opened: their inner tensors appear in their place.
    """
    for member in _members(model):
        yield member.name, member.tensor, member.is_buffer


def named_scales_beside(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for the scales that are neither parameters nor buffers of ``model``."""
    for prefix, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                for attribute, scale in scales_beside(parameter, module).items():
                    yield ".".join(filter(None, (prefix, leaf, attribute))), scale


class _Member(NamedTuple):
    """A tensor under one of its names."""

    name: str
    owner: str  #: the name of the parameter or buffer; for an inner tensor not its own name
    tensor: Tensor
    is_buffer: bool
    is_scale: bool = False  #: whether it scales the other inner tensors of a wrapper subclass


def _members(model: nn.Module) -> Iterator[_Member]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield from _opened(name, parameter, modules.get(name.rpartition(".")[0]), False)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        yield from (each for each in _opened(name, buffer, None, True) if _is_number(each.tensor))


def _opened(
    owner: str, tensor: Tensor, layer: nn.Module | None, is_buffer: bool
) -> Iterator[_Member]:
    for name, inner in inner_tensors(owner, tensor, layer):
        if inner is tensor:
            yield _Member(name, owner, inner, is_buffer)
        elif _is_number(inner):
            # Packed elements have another shape too, but are no floats.
            is_scale = inner.is_floating_point() or name.endswith(("zero_point", "absmax"))
            is_scale &= inner.shape != tensor.shape
            yield _Member(name, owner, inner, is_buffer, is_scale)


def _is_number(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, unlike counters, indices and masks."""
    dtype = tensor.dtype
    return dtype.is_floating_point or dtype.is_complex or dtype in INTEGERS or tensor.is_quantized


def stored_tensors(model: nn.Module) -> list[StoredTensor]:
    """Every stored tensor of ``model`` once, in the order of `named_memories`.

    Empty tensors are left out.

    Raises:
        ValueError: tensors that share a part of their memory, a parameter without a shape, or a
            tensor or module whose name has a lone surrogate.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    refuse_lazy(model)
    for name in modules:
        check_name("a module", name or "the model")
    names: dict[tuple[object, ...], list[str]] = {}
    found: dict[tuple[object, ...], _Member] = {}
    for member in _members(model):
        if member.tensor.numel():
            key = _identity(member.tensor)
            names.setdefault(key, []).append(member.name)
            found.setdefault(key, member)
    _refuse_partly_shared([(member.name, member.tensor) for member in found.values()])
    stored = []
    for key, member in found.items():
        name, owner, tensor, is_buffer, is_scale = member
        check_name("a tensor", name)
        layer, _, leaf = owner.rpartition(".")
        # Tensors of a parametrization belong to the layer whose weight is computed from them.
        layer = f".{layer}".partition(".parametrizations")[0].removeprefix(".")
        module = modules[layer]
        types = types_of(module)
        kind = "scale" if is_scale else _kind(module, owner, leaf, tensor, is_buffer)
        if has_plain_memory(tensor):
            tensor = tensor.detach()
        stored.append(StoredTensor(name, tuple(names[key]), tensor, layer, types, kind, is_buffer))
    return stored


def types_of(module: nn.Module) -> tuple[str, ...]:
    """The names of the class of ``module`` and of its base classes, the class first."""
    return tuple(c.__name__ for c in type(module).__mro__ if issubclass(c, nn.Module))


def _identity(tensor: Tensor) -> tuple[object, ...]:
    if not has_plain_memory(tensor):
        return (id(tensor),)  # an error that names it follows later
    return (tensor.device, *extent(tensor))


def _kind(module: nn.Module, name: str, leaf: str, tensor: Tensor, is_buffer: bool) -> str:
    if leaf.startswith("original") and ".parametrizations." in f".{name}":
        leaf = name.split(".")[-2]  # parametrizations such as weight_norm store parts of a weight
    if leaf in ("running_mean", "running_var"):
        return "statistics"
    if isinstance(module, StoredGuard):
        return "bound"
    if isinstance(module, HyReLU) or leaf == "threshold":
        return "threshold"
    if not is_buffer and (
        isinstance(module, _NORMALISATIONS) or type(module).__name__.lower().endswith("norm")
    ):
        return "normalisation"
    if is_buffer and ("scale" in leaf or "zero_point" in leaf):
        return "scale"
    is_weight = "weight" in leaf or (not is_buffer and _is_matrix(tensor))
    return "bias" if "bias" in leaf else "weight" if is_weight else "other"


def _is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor holds floats along two axes or more.

    Such parameters are weights whatever their name, such as those of stacked experts. Scales and
    tokens of the shapes (channels, 1, 1) and (1, 1, channels) are vectors.
    """
    return tensor.is_floating_point() and sum(size > 1 for size in tensor.shape) > 1


def _refuse_partly_shared(tensors: list[tuple[str, Tensor]]) -> None:
    extents = sorted(
        (str(tensor.device), *extent(tensor), name)
        for name, tensor in tensors
        if has_plain_memory(tensor)
    )
    for (device, _, end, before), (other, begin, _, after) in pairwise(extents):
        if device == other and begin < end:
            raise ValueError(
                f"{before} and {after} share a part of their memory, and faults need tensors that "
                "share all of it or none"
            )
