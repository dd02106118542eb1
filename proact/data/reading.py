"""Read samples in the forms in which people have them."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sized
from operator import index as index_of
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from proact.data.split import Split, collated_split
from proact.nn.batches import Batch, as_tensors

#: Makes a batch, (inputs, targets) or inputs, from a list of items of a data set.
Collate: TypeAlias = Callable[[list[Any]], Any]

#: Samples in one of the forms that `as_split` reads.
Samples: TypeAlias = (
    Split | Tensor | Mapping[str, Any] | tuple[Batch, Batch] | Dataset[Any] | DataLoader[Any]
)

#: Samples in each batch of a `Dataset` with ``collate``.
_COLLATED = 16
#: Samples in each fixed batch of samples that are not collated.
_FIXED = 64


def as_split(data: Samples, collate: Collate | None = None, *, in_batches: bool = False) -> Split:
    """Read samples into memory.

    Args:
        data: one of these forms, where n samples are a pytree of tensors or numpy arrays (n, ...):

            - a tensor or a mapping of tensors, without targets; the key ``labels`` of a mapping
              holds the targets if it exists;
            - a pair (inputs, targets);
            - a map-style `Dataset` of pairs (input, target), of mappings, or of inputs;
            - a `DataLoader` without shuffling, which is read once.
        collate: makes a batch of 16 from items of a `Dataset` whose shapes differ. A `DataLoader`
            has its own.
        in_batches: whether to keep the batches of a `DataLoader` or of ``collate`` fixed, and to
            divide other samples into fixed batches of 64.

    Returns:
        The samples. If collated batches differ in the shape of a sample, the batches stay fixed.

    Raises:
        TypeError, ValueError: another form, numbers of samples or shapes that differ, or numbers
            that are not finite.
    """
    if isinstance(data, DataLoader):
        return _loaded(data, collate, in_batches)
    if collate is not None:
        if not callable(collate):
            raise TypeError(f"collate: expected a function, got {type(collate).__name__}")
        if not _is_map_style(data):
            raise TypeError(
                f"collate: expected a map-style Dataset to collate, got {type(data).__name__}"
            )
        items = cast("Dataset[Any]", data)
        return _loaded(DataLoader(items, _COLLATED, collate_fn=collate), None, in_batches)
    if isinstance(data, Split):
        split = data
    elif isinstance(data, (Tensor, np.ndarray, Mapping)) or _is_pair(data):
        split = Split(*_inputs_and_targets(data))
    elif _is_map_style(data):
        split = _decoded(cast("Dataset[Any]", data))
    else:
        raise TypeError(
            "data: expected a pair (inputs, targets), a tensor, a mapping of tensors, a map-style "
            f"Dataset, a DataLoader or a proact.data.Data, got {type(data).__name__}"
        )
    return split.in_fixed_batches(_FIXED) if in_batches else split


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2


def _is_map_style(data: Any) -> bool:
    is_sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return is_sized and not isinstance(
        data, (tuple, str, bytes, Tensor, np.ndarray, Mapping, Split)
    )


def _inputs_and_targets(batch: Any) -> tuple[Batch, Batch | None]:
    """Divide a batch into inputs and targets."""
    if _is_pair(batch):
        inputs, targets = batch
        # A mapping of another type, such as a tokenizer's, may not be a pytree.
        return (dict(inputs) if isinstance(inputs, UserDict) else inputs), targets
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return batch[0], None
    if isinstance(batch, Mapping) and "labels" in batch:
        return {key: value for key, value in batch.items() if key != "labels"}, batch["labels"]
    if isinstance(batch, Mapping):
        # A mapping of another type, such as a tokenizer's, may not be a pytree.
        return dict(batch), None
    return batch, None


def _loaded(loader: DataLoader[Any], collate: Collate | None, in_batches: bool) -> Split:
    """Read a loader once."""
    if collate is not None:
        raise TypeError("collate: expected None beside a DataLoader, which has its own collate_fn")
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)):
        raise ValueError(
            "data: expected a DataLoader with shuffle=False, because a result belongs to samples "
            "in a fixed order"
        )
    batches = []
    try:
        for batch in cast("Iterable[Any]", loader):
            is_default = loader.collate_fn is default_collate
            batches.append(_inputs_and_targets(_with_tuples(batch) if is_default else batch))
    except Exception as error:  # the user's data set and collate function may raise anything
        raise ValueError(
            f"data: reading batch {len(batches)} raised {type(error).__name__}: {error}"
        ) from error
    return collated_split(batches, are_fixed=in_batches)


def _with_tuples(collated: Any) -> Any:
    """Restore the tuples that torch's `default_collate` returns as lists; texts stay in lists."""
    if isinstance(collated, dict):
        return {key: _with_tuples(value) for key, value in collated.items()}
    if isinstance(collated, (list, tuple)) and not all(isinstance(each, str) for each in collated):
        return tuple(map(_with_tuples, collated))
    return collated


def _decoded(dataset: Dataset[Any]) -> Split:
    """Read every item of a data set once."""
    count = len(cast(Sized, dataset))
    if count == 0:
        raise ValueError("data: expected at least one sample, got an empty Dataset")
    first = dataset[0]
    if _is_pair(first) and isinstance(as_tensors(first[0]), Tensor) and _is_number(first[1]):
        return _decoded_images(dataset, count)
    items = [first, *(dataset[index] for index in range(1, count))]
    try:
        return Split(*_inputs_and_targets(_with_tuples(default_collate(items))))
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            "data: the items of the Dataset cannot be joined into tensors, which needs items of "
            f"one shape ({error}): give collate=, a function that makes a batch of a list of items"
        ) from error


def _is_number(target: Any) -> bool:
    if isinstance(target, Tensor):
        return target.ndim == 0 and not target.is_floating_point() and not target.is_complex()
    return isinstance(target, (int, np.integer))


def _decoded_images(dataset: Dataset[Any], count: int) -> Split:
    """Read pairs (image, label) into preallocated tensors."""
    images: Tensor | None = None
    labels = torch.empty(count, dtype=torch.int64)
    for index in range(count):
        item = dataset[index]
        try:
            image, label = item
            # `index` takes integers alone: int() would cut the fraction of a number off.
            image, labels[index] = torch.as_tensor(image), index_of(label)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                "expected pairs (image, label) of a tensor and an integer in a Dataset; item "
                f"{index} is {_described(item)}"
            ) from None
        if images is None:
            images = torch.empty((count, *image.shape), dtype=image.dtype)
        if image.shape != images.shape[1:] or image.dtype != images.dtype:
            raise ValueError(
                "expected images of one shape and dtype in a Dataset; item 0 has "
                f"{tuple(images.shape[1:])} {images.dtype}, item {index} {tuple(image.shape)} "
                f"{image.dtype}: give collate= for samples that differ"
            )
        images[index] = image
    return Split(images, labels)


def _described(item: object) -> str:
    if isinstance(item, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in item)})"
    return f"a {type(item).__name__}"
