"""What a data set is here: labelled images in memory, in disjoint splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset


def content(tensor: Tensor) -> bytes:
    """The bytes of all elements in row-major order, for a digest."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return raw.numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: ``images`` (n, channels, height, width) floating point, finite;
    ``labels`` (n,) int64, at least 0."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor) or not isinstance(self.labels, Tensor):
            raise TypeError(
                "data is a pair of tensors (images, labels), got "
                f"({type(self.images).__name__}, {type(self.labels).__name__})"
            )
        if not self.images.is_floating_point() or self.labels.dtype != torch.int64:
            raise TypeError(
                "data takes floating-point images and int64 labels, got "
                f"{self.images.dtype} and {self.labels.dtype}"
            )
        if self.labels.dim() != 1 or len(self.images) != len(self.labels) or not len(self.labels):
            raise ValueError(
                "data takes one label an image and at least one image, got images of shape "
                f"{tuple(self.images.shape)} and labels of shape {tuple(self.labels.shape)}"
            )
        if not torch.isfinite(self.images).all():
            raise ValueError("data takes finite images, and some hold NaN or infinity")
        if int(self.labels.min()) < 0:
            raise ValueError(f"labels start at 0, got {int(self.labels.min())}")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, shapes and dtypes, in hexadecimal."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(content(tensor))
        return digest.hexdigest()

    def take(self, indices: Tensor) -> Split:
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three disjoint splits. Nothing that is trained or chosen sees ``test``."""

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int


def stratified_parts(labels: Tensor, shares: tuple[float, ...], seed: int) -> list[Tensor]:
    """Indices of disjoint parts with the given shares of every class; what is left comes last."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for label in torch.unique(labels):
        mine = torch.nonzero(labels == label).squeeze(1)
        mine = mine[torch.randperm(len(mine), generator=generator)]
        start = 0
        for part, share in zip(parts, shares, strict=False):
            end = start + round(share * len(mine))
            part.append(mine[start:end])
            start = end
        parts[-1].append(mine[start:])
    return [torch.cat(part).sort().values for part in parts]


PairOrData = Data | Split | tuple[Tensor, Tensor] | Dataset[tuple[Tensor, int]]


def as_data(data: PairOrData, validation_share: float = 0.2) -> Data:
    """Training and validation images for a protection method.

    A pair of tensors or a map-style `Dataset` counts as training images; every fifth of a class, by
    a fixed draw, becomes validation (and stands in for a test split, which no method looks at).
    """
    if isinstance(data, Data):
        return data
    whole = _as_split(data)
    held_out, rest = stratified_parts(whole.labels, (validation_share,), seed=0)
    if not len(held_out) or not len(rest):
        raise ValueError(f"{len(whole)} images are too few to hold some out for validation")
    validation = whole.take(held_out)
    classes = int(whole.labels.max()) + 1
    return Data("user data", whole.take(rest), validation, validation, classes)


def as_evaluation(data: PairOrData) -> Split:
    """The images that a campaign counts: the test split, or all of a pair or `Dataset`."""
    return data.test if isinstance(data, Data) else _as_split(data)


def _as_split(data: Split | tuple[Tensor, Tensor] | Dataset[tuple[Tensor, int]]) -> Split:
    if isinstance(data, Split):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return Split(*data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        items = [data[i] for i in range(len(cast(Sized, data)))]
        images = torch.stack([torch.as_tensor(image) for image, _ in items])
        return Split(images, torch.tensor([int(label) for _, label in items]))
    raise TypeError(
        "data is a pair of tensors, a map-style Dataset, or what proact.data.load returns; got "
        f"{type(data).__name__}"
    )
