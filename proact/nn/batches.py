"""Batches: pytrees of tensors whose first dimension counts samples.

A batch is a tensor (n, ...), or a tuple, list or mapping of batches with the same n. Numbers, texts
and None in a tree belong to all samples. Functions here work on inputs, targets and outputs alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

#: A pytree of tensors with a common first dimension.
Batch: TypeAlias = Any


def as_tensors(tree: Any) -> Batch:
    """Replace numpy arrays in a tree by tensors that share their memory."""

    def convert(leaf: Any) -> Any:
        return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf

    return pytree.tree_map(convert, tree)


def tensors_in(tree: Any) -> list[Tensor]:
    """List the tensors of a tree in order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def named_tensors(tree: Any) -> dict[str, Tensor]:
    """Map the place of each tensor in a tree, such as ``['input_ids']``, to the tensor."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return {pytree.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def samples_in(batch: Batch, what: str = "data") -> int:
    """Return the number of samples of a batch.

    Args:
        batch: a pytree of tensors (n, ...).
        what: names the batch in error messages.

    Raises:
        TypeError: the tree holds no tensor.
        ValueError: a tensor without dimensions, or first dimensions that differ.
    """
    found = named_tensors(batch)
    if not found:
        raise TypeError(
            f"{what}: expected a tensor, or a tuple or mapping of tensors, got "
            f"{type(batch).__name__}"
        )
    sizes = {}
    for place, tensor in found.items():
        if tensor.dim() == 0:
            raise ValueError(
                f"{what}: expected tensors whose first dimension counts the samples, got a tensor "
                f"without dimensions{_at(place)}"
            )
        sizes[place] = len(tensor)
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size}{_at(place)}" for place, size in sizes.items())
        raise ValueError(f"{what}: expected tensors with one number of samples, got {listed}")
    return next(iter(sizes.values()))


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to each tensor of a tree; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def take(batch: Batch, indices: Tensor | slice) -> Batch:
    """Return the samples at ``indices``, (m,) int64 or a slice, in their order."""
    if isinstance(indices, slice):
        return map_tensors(lambda tensor: tensor[indices], batch)
    return map_tensors(lambda tensor: tensor.index_select(0, indices.to(tensor.device)), batch)


def split(batch: Batch, size: int) -> list[Batch]:
    """Divide a batch into parts of ``size`` samples; the last part may be smaller."""
    count = samples_in(batch)
    return [take(batch, slice(start, start + size)) for start in range(0, count, size)]


def cloned(batch: Batch) -> Batch:
    """Copy all tensors: some models write to their inputs."""
    return map_tensors(Tensor.clone, batch)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move all tensors to a device."""
    return map_tensors(lambda tensor: tensor.to(device), batch)


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Join batches along their first dimension.

    Raises:
        ValueError: trees of different structure, or shapes or dtypes that do not fit.
    """
    if len(batches) == 1:
        return batches[0]
    leaves, structures = zip(*map(pytree.tree_flatten, batches), strict=True)
    if any(structure != structures[0] for structure in structures):
        raise ValueError("the batches have different structures")
    joined = []
    for column in zip(*leaves, strict=True):
        if not isinstance(column[0], Tensor):
            joined.append(column[0])
            continue
        shapes = {(tuple(part.shape[1:]), part.dtype) for part in column}
        if len(shapes) > 1:
            listed = " and ".join(f"{shape} {dtype}" for shape, dtype in sorted(shapes, key=str))
            raise ValueError(f"the samples of different batches have the shapes {listed}")
        joined.append(torch.cat(column))
    return pytree.tree_unflatten(joined, structures[0])
