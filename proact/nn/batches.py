"""Batches: trees of tensors whose first dimension counts samples.

A batch is a tensor (n, ...), a list with one element for each of the n samples, or a tuple or
mapping of batches with the same n. Numbers, texts and None in a tree belong to all samples. The
functions here work on inputs, targets and outputs alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from proact.ops.plan import checked_integer
from proact.text import short_repr

_ATOMS = (bool, int, float, complex, str, bytes)

#: A tree of tensors or lists with a common number of samples.
Batch: TypeAlias = Any


def as_tensors(tree: Any) -> Batch:
    """Replace numpy arrays in a tree by tensors that share their memory, and lazily negated or
    conjugated tensors by tensors with the numbers themselves."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.resolve_conj().resolve_neg() if leaf.is_conj() or leaf.is_neg() else leaf
        return torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf

    return pytree.tree_map(convert, tree)


def tensors_in(tree: Any) -> list[Tensor]:
    """List the tensors of a tree in order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def named_leaves(tree: Any) -> dict[str, Any]:
    """Map the place of each leaf in a tree, such as ``['input_ids']``, to the leaf."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return {pytree.keystr(path): leaf for path, leaf in leaves}


def samples_in(batch: Batch, what: str = "data") -> int:
    """Return the number of samples of a batch.

    Args:
        batch: a tree of tensors (n, ...) and lists of n elements.
        what: names the batch in error messages.

    Raises:
        TypeError: the tree holds no tensor and no list.
        ValueError: a tensor without dimensions, or first dimensions that differ.
    """
    if isinstance(batch, Tensor) and batch.dim():
        return len(batch)
    sizes: dict[str, int] = {}
    leaves, _ = pytree.tree_flatten_with_path(batch, is_leaf=_is_list)
    for path, leaf in leaves:
        place = f" at {pytree.keystr(path)}" if path else ""
        if isinstance(leaf, Tensor) and leaf.dim() == 0:
            raise ValueError(
                f"{what}: expected tensors whose first dimension counts the samples, got a tensor "
                f"without dimensions{place}"
            )
        if isinstance(leaf, (Tensor, list)):
            sizes[place] = len(leaf)
    if not sizes:
        raise TypeError(
            f"{what}: expected a tensor, or a tuple or mapping of tensors, got "
            f"{type(batch).__name__}"
        )
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size}{place}" for place, size in sizes.items())
        raise ValueError(f"{what}: expected tensors with one number of samples, got {listed}")
    return next(iter(sizes.values()))


def _is_list(tree: Any) -> bool:
    return type(tree) is list


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to each tensor of a tree; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def take(batch: Batch, indices: Tensor | slice) -> Batch:
    """Return the samples at ``indices``, (m,) int64 or a slice, in their order."""

    def chosen(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            if isinstance(indices, slice):
                return leaf[indices]
            return leaf.index_select(0, indices.to(leaf.device))
        if _is_list(leaf):
            return leaf[indices] if isinstance(indices, slice) else [leaf[i] for i in indices]
        return leaf

    return chosen(batch) if isinstance(batch, Tensor) else map_leaves(chosen, batch)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to each leaf of a batch; a list of samples is a leaf."""
    leaves, structure = pytree.tree_flatten(tree, is_leaf=_is_list)
    return pytree.tree_unflatten(map(function, leaves), structure)


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Divide a batch into parts of ``size`` samples.

    A single sample that would be left over joins the part before it, because some models take no
    single sample.

    Raises:
        ValueError, TypeError: ``size`` is not an integer of at least 1.
    """
    if checked_integer("batch", size, 1 << 62) == 0:
        raise ValueError("batch is at least 1, got 0")
    samples = samples_in(batch)
    start = 0
    while start < samples:
        end = samples if samples - start <= size + 1 else start + size
        yield take(batch, slice(start, end))
        start = end


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
    leaves, structures = zip(
        *(pytree.tree_flatten(batch, is_leaf=_is_list) for batch in batches), strict=True
    )
    if any(structure != structures[0] for structure in structures):
        raise ValueError("the batches have different structures")
    return pytree.tree_unflatten(
        [_joined(column) for column in zip(*leaves, strict=True)], structures[0]
    )


def _check_same(column: Sequence[Any]) -> None:
    """Raise ValueError for numbers, texts or None that differ between batches."""
    first = column[0]
    for part in column:
        if type(part) is not type(first) or (isinstance(part, _ATOMS) and part != first):
            raise ValueError(
                f"a value that is no tensor differs between batches: {short_repr(part)}"
            )


def _joined(column: Sequence[Any]) -> Any:
    if _is_list(column[0]):
        return [element for part in column for element in part]
    if not all(isinstance(part, Tensor) for part in column):
        _check_same(column)
        return column[0]
    shapes = {(tuple(part.shape[1:]), part.dtype) for part in column}
    if len(shapes) > 1 or column[0].dim() == 0:
        listed = " and ".join(f"{shape} {dtype}" for shape, dtype in sorted(shapes, key=str))
        raise ValueError(f"the samples of different batches have the shapes {listed}")
    return torch.cat(list(column))
