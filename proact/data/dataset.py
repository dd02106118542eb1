"""Data sets: labelled images in memory, in disjoint splits."""

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
    """Return the bytes of all elements in row-major order, for a digest."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return raw.numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images, at least one.

    Attributes:
        images: (n, channels, height, width), floating point, finite.
        labels: (n,) int64, at least 0.

    Raises:
        TypeError, ValueError: other types, shapes or values.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor) or not isinstance(self.labels, Tensor):
            raise TypeError(
                "data: expected a pair of tensors (images, labels), got "
                f"({type(self.images).__name__}, {type(self.labels).__name__})"
            )
        if not self.images.is_floating_point() or self.labels.dtype != torch.int64:
            raise TypeError(
                "data: expected floating-point images and int64 labels, got "
                f"{self.images.dtype} and {self.labels.dtype}"
            )
        if self.labels.dim() != 1 or len(self.images) != len(self.labels) or not len(self.labels):
            raise ValueError(
                "data: expected at least one image and one label per image, got images of shape "
                f"{tuple(self.images.shape)} and labels of shape {tuple(self.labels.shape)}"
            )
        # Check in parts: the check makes copies, and a data set may fill half the memory.
        if not all(bool(torch.isfinite(part).all()) for part in self.images.split(1024)):
            raise ValueError("data: expected finite images, got some with NaN or infinity")
        if int(self.labels.min()) < 0:
            raise ValueError(f"data: expected labels of at least 0, got {int(self.labels.min())}")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of values, shapes and dtypes, in hexadecimal."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            for part in tensor.split(1024):
                digest.update(content(part))
        return digest.hexdigest()

    def take(self, indices: Tensor) -> Split:
        """Return the images and labels at ``indices``, (m,) int64."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image that keep its label.

    Attributes:
        shift: largest shift in each direction, in pixels.
        mirror: whether images may be mirrored left to right.
    """

    shift: int = 0
    mirror: bool = False


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three disjoint splits. No training and no choice uses ``test``.

    Attributes:
        name: readable name.
        train, validation, test: normalised images and their labels.
        num_classes: labels lie in [0, num_classes).
        labels: names of the classes in order, if known.
        mean, deviation: of the normalisation of pixels in [0, 1], one value per channel.
        augmentation: allowed changes of training images.

    Raises:
        ValueError: validation and test share more than five images and more than 1 % of the
            validation images. (Published data sets contain a few duplicates.)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        shared = _shared_images(self.validation, self.test)
        if shared > max(_FEW_TWINS, _NATURAL_TWINS * len(self.validation)):
            raise ValueError(
                f"{shared} validation images of {self.name} are test images too: expected disjoint "
                "splits"
            )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the digests of the splits, in hexadecimal."""
        splits = (self.train.digest, self.validation.digest, self.test.digest)
        return hashlib.sha256("".join(splits).encode()).hexdigest()


def _shared_images(one: Split, other: Split) -> int:
    # One object as both splits is deliberate, as in `as_data`.
    if one is other or not (isinstance(one, Split) and isinstance(other, Split)):
        return 0
    first, second = (
        {hashlib.blake2b(content(image), digest_size=16).digest() for image in split.images}
        for split in (one, other)
    )
    return len(first & second)


def stratified_parts(labels: Tensor, shares: tuple[float, ...], seed: int) -> list[Tensor]:
    """Divide indices into disjoint parts that hold the given shares of every class.

    Args:
        labels: (n,) int64.
        shares: of the parts, each in [0, 1].
        seed: determines the random division.

    Returns:
        Sorted indices (m,) int64 of each part; the last part holds the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for label in torch.unique(labels):
        members = torch.nonzero(labels == label).squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        start = 0
        for part, share in zip(parts, shares, strict=False):
            end = start + round(share * len(members))
            part.append(members[start:end])
            start = end
        parts[-1].append(members[start:])
    return [torch.cat(part).sort().values for part in parts]


Pair = Split | tuple[Tensor, Tensor] | Dataset[tuple[Tensor, int]]
PairOrData = Data | Pair

# Shares of every class for test and validation, for data sets without official parts.
TEST_AND_VALIDATION = (0.20, 0.15)
# Number, or share, of validation images that may be test images too.
_FEW_TWINS, _NATURAL_TWINS = 5, 0.01
# Share of a training part that is held out for validation.
HELD_OUT = 0.1


def as_data(data: PairOrData, validation_share: float = 0.2) -> Data:
    """Return training and validation images for a protection method.

    A pair of tensors or a map-style `Dataset` is split: ``validation_share`` of every class becomes
    validation, by a fixed draw. The validation images also serve as the test split, which no method
    uses.

    Raises:
        TypeError, ValueError: not labelled images, or too few.
    """
    if isinstance(data, Data):
        return data
    whole = _as_split(data)
    held_out, rest = stratified_parts(whole.labels, (validation_share,), seed=0)
    if not len(held_out) or not len(rest):
        raise ValueError(
            f"expected enough images to hold some out for validation, got {len(whole)}"
        )
    validation = whole.take(held_out)
    classes = int(whole.labels.max()) + 1
    return Data("user data", whole.take(rest), validation, validation, classes)


def parts_of(data: PairOrData) -> Data:
    """Split a pair or `Dataset` into 65 % train, 15 % validation and 20 % test of every class.

    The draw is fixed.

    Raises:
        TypeError, ValueError: not labelled images, or too few.
    """
    if isinstance(data, Data):
        return data
    whole = _as_split(data)
    test, validation, train = stratified_parts(whole.labels, TEST_AND_VALIDATION, seed=0)
    if not all(map(len, (test, validation, train))):
        raise ValueError(f"expected enough images for three splits, got {len(whole)}")
    classes = int(whole.labels.max()) + 1
    return Data("own", whole.take(train), whole.take(validation), whole.take(test), classes)


def from_parts(train: Pair, test: Pair, validation: Pair | None = None, name: str = "own") -> Data:
    """Make a data set from a pair of tensors or a `Dataset` for each part.

    Args:
        train: images for training.
        test: images that only campaigns use.
        validation: images for choices; None holds out a tenth of every class of ``train``, by a
            fixed draw.
        name: readable name.

    Raises:
        TypeError, ValueError: parts that are not labelled images or differ in image shape, too few
            images, or parts that share images (see `Data`).
    """
    training = _as_split(train)
    if validation is None:
        held_out, rest = stratified_parts(training.labels, (HELD_OUT,), seed=0)
        if not len(held_out):
            raise ValueError(
                f"expected enough images to hold some out for validation, got {len(training)}"
            )
        checked, training = training.take(held_out), training.take(rest)
    else:
        checked = _as_split(validation)
    parts = (training, checked, _as_split(test))
    shapes = {tuple(part.images.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"expected images of one shape in all parts, got {sorted(shapes)}")
    return Data(name, *parts, max(int(part.labels.max()) for part in parts) + 1)


def as_evaluation(data: PairOrData) -> Split:
    """Return the images of a campaign: the test split, or all images of a pair or `Dataset`."""
    return data.test if isinstance(data, Data) else _as_split(data)


def _as_split(data: Pair) -> Split:
    if isinstance(data, Split):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return Split(*data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _decoded(data)
    raise TypeError(
        "data: expected a pair of tensors, a map-style Dataset or a proact.data.Data, got "
        f"{type(data).__name__}"
    )


def _decoded(dataset: Dataset[tuple[Tensor, int]]) -> Split:
    """Read every item once into preallocated tensors."""
    images: Tensor | None = None
    labels = torch.empty(len(cast(Sized, dataset)), dtype=torch.int64)
    for index in range(len(labels)):
        item = dataset[index]
        try:
            image, label = item
            image, labels[index] = torch.as_tensor(image), int(label)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                "expected pairs (image, label) of a tensor and an integer in a Dataset; item "
                f"{index} is {_described(item)}"
            ) from None
        if images is None:
            images = torch.empty((len(labels), *image.shape), dtype=image.dtype)
        if image.shape != images.shape[1:] or image.dtype != images.dtype:
            raise ValueError(
                "expected images of one shape and dtype in a Dataset; item 0 has "
                f"{tuple(images.shape[1:])} {images.dtype}, item {index} {tuple(image.shape)} "
                f"{image.dtype}"
            )
        images[index] = image
    if images is None:
        raise ValueError("data: expected at least one image, got an empty Dataset")
    return Split(images, labels)


def _described(item: object) -> str:
    if isinstance(item, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in item)})"
    return f"a {type(item).__name__}"
