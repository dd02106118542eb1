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
        # Part by part: the check makes copies, and a data set can fill half the memory.
        if not all(bool(torch.isfinite(part).all()) for part in self.images.split(1024)):
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
            for part in tensor.split(1024):
                digest.update(content(part))
        return digest.hexdigest()

    def take(self, indices: Tensor) -> Split:
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a training image without changing its label.

    Attributes:
        shift: pixels by which it may move, each way.
        mirror: whether left and right may change places.
    """

    shift: int = 0
    mirror: bool = False


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three disjoint splits. Nothing that is trained or chosen sees ``test``.

    ValueError where more than five, and more than one in a hundred, validation images are test
    images too. (Published sets hold a few twins.)

    Attributes:
        name: for people.
        train, validation, test: normalised images and their labels.
        num_classes: labels lie in [0, num_classes).
        labels: the classes' names in order, where they are known.
        mean, deviation: of the normalisation, a value a channel, of pixels in [0, 1].
        augmentation: what training may do to an image.
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
                f"{shared} validation images of {self.name} are test images too: what is chosen on "
                "them would be judged on them"
            )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the splits' digests, in hexadecimal: the identity of the content."""
        splits = (self.train.digest, self.validation.digest, self.test.digest)
        return hashlib.sha256("".join(splits).encode()).hexdigest()


def _shared_images(one: Split, other: Split) -> int:
    # One split in two places is a user's decision, such as `as_data`'s stand-in.
    if one is other or not (isinstance(one, Split) and isinstance(other, Split)):
        return 0
    first, second = (
        {hashlib.blake2b(content(image), digest_size=16).digest() for image in split.images}
        for split in (one, other)
    )
    return len(first & second)


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


Pair = Split | tuple[Tensor, Tensor] | Dataset[tuple[Tensor, int]]
PairOrData = Data | Pair

# Where a set brings no parts of its own: the test and validation shares of every class.
TEST_AND_VALIDATION = (0.20, 0.15)
# How many validation images may stand in the test split too, or what share of them.
_FEW_TWINS, _NATURAL_TWINS = 5, 0.01
# What is held out of a training part for validation.
HELD_OUT = 0.1


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


def parts_of(data: PairOrData) -> Data:
    """A pair or `Dataset` of the user's in three parts, the same share of every class: 65 % train,
    15 % validation, 20 % test, by a fixed draw."""
    if isinstance(data, Data):
        return data
    whole = _as_split(data)
    test, validation, train = stratified_parts(whole.labels, TEST_AND_VALIDATION, seed=0)
    if not all(map(len, (test, validation, train))):
        raise ValueError(f"{len(whole)} images are too few to split in three")
    classes = int(whole.labels.max()) + 1
    return Data("own", whole.take(train), whole.take(validation), whole.take(test), classes)


def from_parts(train: Pair, test: Pair, validation: Pair | None = None, name: str = "own") -> Data:
    """A data set of the user's own, from a pair of tensors or a `Dataset` for each part.

    Args:
        train: images that a method may learn from. Without ``validation``, a tenth of every class
            is held out of it, by a fixed draw.
        test: images that only campaigns see.
    """
    training = _as_split(train)
    if validation is None:
        held_out, rest = stratified_parts(training.labels, (HELD_OUT,), seed=0)
        if not len(held_out):
            raise ValueError(f"{len(training)} images are too few to hold some out for validation")
        checked, training = training.take(held_out), training.take(rest)
    else:
        checked = _as_split(validation)
    parts = (training, checked, _as_split(test))
    shapes = {tuple(part.images.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"all parts hold images of one shape, got {sorted(shapes)}")
    return Data(name, *parts, max(int(part.labels.max()) for part in parts) + 1)


def as_evaluation(data: PairOrData) -> Split:
    """The images that a campaign counts: the test split, or all of a pair or `Dataset`."""
    return data.test if isinstance(data, Data) else _as_split(data)


def _as_split(data: Pair) -> Split:
    if isinstance(data, Split):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return Split(*data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _decoded(data)
    raise TypeError(
        "data is a pair of tensors, a map-style Dataset, or what proact.data.load returns; got "
        f"{type(data).__name__}"
    )


def _decoded(dataset: Dataset[tuple[Tensor, int]]) -> Split:
    """Every item once, into tensors that are allocated once."""
    images: Tensor | None = None
    labels = torch.empty(len(cast(Sized, dataset)), dtype=torch.int64)
    for index in range(len(labels)):
        item = dataset[index]
        try:
            image, label = item
            image, labels[index] = torch.as_tensor(image), int(label)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                "a Dataset's items are pairs (image, label) of a tensor and an integer; item "
                f"{index} is {_described(item)}"
            ) from None
        if images is None:
            images = torch.empty((len(labels), *image.shape), dtype=image.dtype)
        if image.shape != images.shape[1:] or image.dtype != images.dtype:
            raise ValueError(
                "a Dataset's images have one shape and dtype; item 0 has "
                f"{tuple(images.shape[1:])} {images.dtype}, item {index} {tuple(image.shape)} "
                f"{image.dtype}"
            )
        images[index] = image
    if images is None:
        raise ValueError("data takes at least one image, got an empty Dataset")
    return Split(images, labels)


def _described(item: object) -> str:
    if isinstance(item, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in item)})"
    return f"a {type(item).__name__}"
