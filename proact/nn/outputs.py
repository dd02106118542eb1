"""Outputs of models and layers: the tensors in trees, mappings and objects of any class."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from proact.nn.object_walk import is_opaque
from proact.nn.replacements import widened

_ATOMS = (bool, int, float, complex, str, bytes)
_CODE = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


def opened(output: Any) -> Any:
    """Replace the objects in an output by lists and dictionaries, which pytree can walk.

    Opened are mappings and sequences of any class, dataclasses and other objects with attributes.
    Arrays of numpy become tensors that share their memory where they can. Modules, functions,
    classes and objects of torch's machinery stay as they are. An object that occurs twice is opened
    once and is None in the other places.
    """
    if isinstance(output, Tensor):
        return output
    return _opened(output, {})


def output_tensors(output: Any) -> list[Tensor]:
    """List the tensors in an output, also those in objects that pytree does not know."""
    if isinstance(output, Tensor):
        return [output]
    return [leaf for leaf in pytree.tree_leaves(opened(output)) if isinstance(leaf, Tensor)]


def dense(tensor: Tensor) -> Tensor:
    """The numbers of a sparse, nested or complex tensor in a dense one of real numbers.

    Nested tensors are padded with 0; complex numbers become pairs along a new last axis. The dtype
    is one that torch computes with (`proact.nn.replacements.widened`).
    """
    if tensor.is_nested:
        tensor = torch.nested.to_padded_tensor(tensor.detach(), 0.0)
    elif tensor.layout != torch.strided:
        tensor = tensor.detach().to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return widened(tensor.resolve_neg())


def plain_values(output: Any) -> list[str]:
    """List the numbers and texts in an output, as text in which NaN equals NaN."""
    return [repr(leaf) for leaf in pytree.tree_leaves(opened(output)) if isinstance(leaf, _ATOMS)]


def _opened(tree: Any, seen: dict[int, Any]) -> Any:
    def convert(leaf: Any) -> Any:
        if leaf is None or isinstance(leaf, (Tensor, *_ATOMS)):
            return leaf
        if isinstance(leaf, (np.ndarray, np.generic)):
            return _as_tensor(leaf)
        if id(leaf) in seen:
            return None
        seen[id(leaf)] = leaf
        members = _members(leaf)
        return leaf if members is None else _opened(members, seen)

    return pytree.tree_map(convert, tree)


def _as_tensor(array: Any) -> Any:
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:  # texts and objects
        return array


def _members(value: Any) -> list[Any] | dict[Any, Any] | None:
    """The items and attributes of an object that is no leaf; None for one that has none.

    A sequence without attributes is a list, which may have an element for each sample.
    """
    if isinstance(value, (nn.Module, *_CODE)) or is_opaque(type(value)):
        return None
    found: dict[Any, Any] = {}
    if isinstance(value, Mapping):
        found.update(value.items())
    elif isinstance(value, Sequence):
        found.update(enumerate(value))
    # Classes such as transformers' ModelOutput keep each item as an attribute, too.
    items = set(map(id, found.values()))
    for name, attribute in _attributes(value):
        if id(attribute) not in items:
            found[f".{name}"] = attribute
    if isinstance(value, Sequence) and len(found) == len(value):
        return list(found.values())
    return found or None


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            # A slot may be empty, and a private one has another name.
            hidden = f"_{kind.__name__.lstrip('_')}{name}"
            own = hidden if name.startswith("__") and not name.endswith("__") else name
            if own not in ("__dict__", "__weakref__") and hasattr(value, own):
                yield own, getattr(value, own)
