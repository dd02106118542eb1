"""`Split`: samples with their targets, as a pytree of tensors or in fixed batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from proact.nn.batches import (
    Batch,
    as_tensors,
    concatenated,
    named_leaves,
    on_device,
    samples_in,
    split_batch,
    take,
    tensors_in,
)
from proact.nn.inner_tensors import inner_tensors
from proact.ops.tensor_kinds import unusual_kind

_PART = 1024


def content(tensor: Tensor) -> bytes:
    """Return the bytes of all elements in row-major order, for a digest.

    Of a tensor that wraps others, these are the bytes of the inner tensors.
    """
    inner = [each for _, each in inner_tensors("", tensor.detach())]
    if len(inner) > 1 or inner[0].layout != torch.strided or inner[0].is_quantized:
        return b"".join(content(_dense(each)) for each in inner)
    raw = inner[0].cpu().contiguous().reshape(-1).view(torch.uint8)
    return raw.numpy().tobytes()


def _dense(tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        return tensor.int_repr()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


@dataclass(frozen=True, eq=False)
class Split:
    """Samples with their targets, at least one sample.

    The samples are one pytree of tensors (n, ...), from which any samples can be taken. If samples
    of different shapes are collated, or if an output depends on its batch, they are in fixed
    batches instead, and whole batches are taken.

    Attributes:
        inputs: what the model takes: a tensor (n, ...), or a tuple or mapping of tensors, such as
            token ids and a mask; in fixed batches a tuple with the inputs of each batch. Numpy
            arrays become tensors.
        targets: what the outputs are compared with, such as class labels (n,) int64, in the same
            form; None if there are none.
        batch_sizes: the number of samples of each fixed batch; None without fixed batches.

    Raises:
        TypeError: inputs or targets without a tensor, or with sparse, nested, quantised or meta
            ones.
        ValueError: no sample, numbers of samples that differ, or numbers that are not finite.
    """

    inputs: Batch
    targets: Batch | None = None
    batch_sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", as_tensors(self.inputs))
        object.__setattr__(self, "targets", as_tensors(self.targets))
        for inputs, targets in self._parts():
            _check_kinds(inputs, "inputs")
            _check_kinds(targets, "targets")
            samples = samples_in(inputs, "data: inputs")
            found = samples if targets is None else samples_in(targets, "data: targets")
            if samples != found or samples == 0:
                raise ValueError(
                    "data: expected at least one sample and one target per sample, got "
                    f"{samples} samples and {found} targets"
                )
            for part in (inputs, targets):
                _check_finite(part)

    def __len__(self) -> int:
        """The number of samples."""
        return sum(self.batch_sizes) if self.batch_sizes else samples_in(self.inputs)

    @property
    def units(self) -> int:
        """The number of units that can be taken: fixed batches, or samples."""
        return len(self.batch_sizes) if self.batch_sizes else len(self)

    @property
    def images(self) -> Tensor:
        """The inputs, if they are one tensor (n, ...).

        Raises:
            TypeError: the inputs are several tensors, or in fixed batches.
        """
        if not isinstance(self.inputs, Tensor):
            raise TypeError(
                "data: expected inputs that are one tensor (n, ...), got "
                f"{type(self.inputs).__name__}"
            )
        return self.inputs

    @property
    def labels(self) -> Tensor:
        """The targets, if they are class labels (n,) int64 of at least 0.

        Raises:
            TypeError, ValueError: other targets.
        """
        targets = self.targets
        if self.batch_sizes is not None and targets is not None:
            try:
                targets = concatenated(targets)
            except ValueError:
                targets = targets[0]
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64:
            given = "no targets" if targets is None else _described(targets)
            raise TypeError(f"data: expected class labels (n,) int64, got {given}")
        if int(targets.min()) < 0:
            raise ValueError(f"data: expected labels of at least 0, got {int(targets.min())}")
        return targets

    @cached_property
    def class_labels(self) -> Tensor | None:
        """The class labels (n,) int64 of at least 0, or None if the targets are something else."""
        try:
            return self.labels
        except (TypeError, ValueError):
            return None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of values, shapes and dtypes, in hexadecimal."""
        digest = hashlib.sha256()
        for inputs, targets in self._parts():
            for tree in (inputs, targets):
                _update(digest, tree)
        if self.batch_sizes:
            digest.update(f"fixed batches {self.batch_sizes}".encode())
        return digest.hexdigest()

    def sample_digests(self) -> set[bytes]:
        """Return a digest of the inputs of each unit."""
        images = self.inputs
        if type(images) is Tensor:
            return {_short_digest(row) for part in images.split(_PART) for row in _rows(part)}
        units = (self.take(torch.tensor([unit])).inputs for unit in range(self.units))
        return {_short_digest(*map(content, tensors_in(inputs))) for inputs in units}

    def take(self, indices: Tensor) -> Split:
        """Return the units at ``indices``, (m,) int64, in their order."""
        if self.batch_sizes is None:
            targets = None if self.targets is None else take(self.targets, indices)
            return _unchecked(take(self.inputs, indices), targets, None)
        chosen = indices.tolist()
        return _unchecked(
            tuple(self.inputs[number] for number in chosen),
            None if self.targets is None else tuple(self.targets[number] for number in chosen),
            tuple(self.batch_sizes[number] for number in chosen),
        )

    def first(self, samples: int) -> Split:
        """Return the first samples, at most ``samples``; at least one fixed batch."""
        if self.batch_sizes is None:
            return self.take(torch.arange(min(samples, len(self)), device=self.device))
        count, units = 0, 0
        while units < self.units and (units == 0 or count + self.batch_sizes[units] <= samples):
            count += self.batch_sizes[units]
            units += 1
        return self.take(torch.arange(units))

    def batches(self, size: int) -> Iterator[tuple[Batch, Batch | None]]:
        """Yield (inputs, targets) of successive batches of ``size`` samples, or the fixed ones.

        A single sample that would be left over joins the batch before it.
        """
        if self.batch_sizes is not None:
            yield from self._parts()
            return
        if self.targets is None:
            yield from ((inputs, None) for inputs in split_batch(self.inputs, size))
        else:
            # A targets tree of its own form has as many samples, and so the same parts.
            yield from zip(
                split_batch(self.inputs, size), split_batch(self.targets, size), strict=True
            )

    def in_fixed_batches(self, size: int) -> Split:
        """Return the same samples in fixed batches of ``size``; existing fixed batches stay."""
        if self.batch_sizes is not None:
            return self
        inputs, targets = zip(*self.batches(size), strict=True)
        return _unchecked(
            inputs, None if self.targets is None else targets, tuple(map(samples_in, inputs))
        )

    def to(self, device: torch.device) -> Split:
        """Return the samples on a device."""
        inputs, targets = (on_device(tree, device) for tree in (self.inputs, self.targets))
        return _unchecked(inputs, targets, self.batch_sizes)

    @property
    def device(self) -> torch.device:
        """The device of the first input tensor."""
        found = tensors_in(self.inputs)
        return found[0].device if found else torch.device("cpu")

    def _parts(self) -> Iterator[tuple[Batch, Batch | None]]:
        """Yield (inputs, targets) of each fixed batch, or of everything."""
        if self.batch_sizes is None:
            yield self.inputs, self.targets
            return
        targets = [None] * len(self.batch_sizes) if self.targets is None else self.targets
        yield from zip(self.inputs, targets, strict=True)


def _unchecked(inputs: Batch, targets: Batch | None, sizes: tuple[int, ...] | None) -> Split:
    """Make a part of a checked split: a check of all numbers in each trial would be slow."""
    made = object.__new__(Split)
    for name, value in (("inputs", inputs), ("targets", targets), ("batch_sizes", sizes)):
        object.__setattr__(made, name, value)
    return made


def collated_split(batches: Sequence[tuple[Batch, Batch | None]], are_fixed: bool = False) -> Split:
    """Join collated batches (inputs, targets) into one split.

    The batches stay fixed if ``are_fixed``, or if the samples of batches differ in shape.

    Raises:
        TypeError, ValueError: the errors of `Split`, and no batch.
    """
    if not batches:
        raise ValueError("data: expected at least one sample, got none")
    inputs, targets = zip(*batches, strict=True)
    has_targets = any(target is not None for target in targets)
    if has_targets and any(target is None for target in targets):
        number = next(number for number, target in enumerate(targets) if target is None)
        raise ValueError(
            f"data: expected targets in all batches or in none, got none in batch {number}"
        )
    try:
        joined = None if are_fixed else concatenated(inputs)
        joined_targets = concatenated(targets) if has_targets and not are_fixed else None
    except ValueError:
        are_fixed = True
    if not are_fixed:
        return Split(joined, joined_targets)
    inputs = tuple(map(as_tensors, inputs))
    sizes = tuple(samples_in(each, "data: inputs") for each in inputs)
    return Split(inputs, targets if has_targets else None, sizes)


def _rows(images: Tensor) -> Iterator[memoryview]:
    """The bytes of each image."""
    whole = memoryview(content(images))
    size = len(whole) // len(images)
    for number in range(len(images)):
        yield whole[number * size : (number + 1) * size]


def _short_digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _check_kinds(tree: Batch | None, what: str) -> None:
    for place, leaf in named_leaves(tree).items():
        kind = unusual_kind(leaf) if isinstance(leaf, Tensor) else None
        if kind is not None:
            at = f" at {place}" if place else ""
            raise TypeError(f"data: expected {what} in dense tensors{at}, got {kind}")


def _check_finite(tree: Batch | None) -> None:
    for tensor in tensors_in(tree):
        # Check in parts: the check makes copies, and a data set may fill half the memory.
        parts = tensor.split(_PART) if tensor.dim() else (tensor,)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise ValueError("data: expected finite numbers, got some that are NaN or infinite")


def _update(digest: Any, tree: Batch | None) -> None:
    for place, leaf in named_leaves(tree).items():
        if isinstance(leaf, Tensor):
            digest.update(f"{place}{leaf.dtype}{tuple(leaf.shape)}".encode())
            for part in leaf.split(_PART) if leaf.dim() else (leaf,):
                digest.update(content(part))
        else:
            digest.update(f"{place}{leaf!r}".encode())


def _described(targets: Batch) -> str:
    if isinstance(targets, Tensor):
        return f"targets of shape {tuple(targets.shape)} {targets.dtype}"
    if isinstance(targets, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, targets))}"
    return type(targets).__name__
