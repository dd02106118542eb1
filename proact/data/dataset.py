"""Data sets: samples in memory, in disjoint splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from proact.data.reading import Collate, Samples, as_split
from proact.data.split import Split
from proact.options import integer, named, true_or_false
from proact.text import short_repr


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image that keep its label.

    Attributes:
        shift: largest shift in each direction, in pixels; at least 0.
        mirror: whether images may be mirrored left to right.

    Raises:
        TypeError: a shift that is no integer, or a mirror that is neither True nor False.
        ValueError: a negative shift.
    """

    shift: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        for name, check in (("shift", integer(0)), ("mirror", true_or_false)):
            named(name, check)(getattr(self, name))


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three disjoint splits. No training and no choice uses ``test``.

    Attributes:
        name: readable name.
        train, validation, test: the samples, such as normalised images, with their targets.
        num_classes: class labels lie in [0, num_classes); 0 if the targets are not class labels.
        labels: names of the classes in order; empty if they are not known.
        mean, deviation: with which pixels in [0, 1] were normalised, (pixel - mean) / deviation,
            one value per channel; empty if they were not.
        augmentation: allowed changes of training images.

    Raises:
        ValueError: test images that are training or validation images too: more than five, and
            more than 1 % of the test or validation images, whichever are fewer. (Published data
            sets contain a few duplicates.) One `Split` that is given as both counts as deliberate;
            where it is validation and test, there is no test that training samples could be in.
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
        if self.validation is self.test:
            return
        for part, split in (("training", self.train), ("validation", self.validation)):
            shared = _shared_images(split, self.test)
            if shared > _FEW_TWINS and shared > _NATURAL_TWINS * min(len(split), len(self.test)):
                raise ValueError(
                    f"{shared} {part} samples of {self.name} are test samples too: expected "
                    "disjoint splits (leave out copies of a sample before you divide the samples), "
                    "or one Split as both if that is meant"
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
    return len(one.sample_digests() & other.sample_digests())


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


def stratified_subset(split: Split, samples: int) -> Tensor:
    """Choose samples by a fixed random draw, the same share of every class if there are classes.

    Args:
        split: where samples are chosen; not in fixed batches.
        samples: the most samples to choose, at least 1.

    Returns:
        Sorted indices (m,) int64, where m is ``samples`` or the number of all samples.
    """
    if samples >= len(split):
        return torch.arange(len(split))
    labels = split.class_labels
    labels = torch.zeros(len(split), dtype=torch.int64) if labels is None else labels
    classes = [torch.nonzero(labels == label).squeeze(1) for label in torch.unique(labels)]
    # Whole numbers that add up: the classes that lose most by rounding down get one more.
    exact = [samples * len(members) / len(split) for members in classes]
    counts = [math.floor(share) for share in exact]
    lost = sorted(range(len(classes)), key=lambda index: counts[index] - exact[index])
    for index in lost[: samples - sum(counts)]:
        counts[index] += 1
    generator = torch.Generator().manual_seed(0)
    drawn = [members[torch.randperm(len(members), generator=generator)] for members in classes]
    chosen = [members[:count] for members, count in zip(drawn, counts, strict=True)]
    return torch.cat(chosen).sort().values


#: Samples in any form, or a data set with its splits.
SamplesOrData = Data | Samples

# Shares of every class for test and validation, for data sets without official parts.
TEST_AND_VALIDATION = (0.20, 0.15)
# Number, or share, of images that may be in the test split and another one.
_FEW_TWINS, _NATURAL_TWINS = 5, 0.01
# Share of a training part that is held out for validation.
HELD_OUT = 0.1


def divided(split: Split, shares: tuple[float, ...]) -> list[Split]:
    """Divide a split into disjoint parts that hold the given shares; the last holds the rest.

    Every class has the same share of each part, if the targets are class labels. The draw is fixed.

    Args:
        split: at least one unit for each part.
        shares: of the parts, each in [0, 1].

    Raises:
        ValueError: a part would be empty.
    """
    labels = split.class_labels
    if labels is None or split.batch_sizes is not None:
        labels = torch.zeros(split.units, dtype=torch.int64)
    parts = stratified_parts(labels, shares, seed=0)
    if not all(map(len, parts)):
        raise ValueError(f"data: expected enough samples for {len(parts)} parts, got {len(split)}")
    return [split.take(part) for part in parts]


def checked_data(data: Data) -> Data:
    """Return ``data``, or raise TypeError unless it is a `Data`."""
    if not isinstance(data, Data):
        raise TypeError(
            "data: expected a proact.data.Data, as proact.data.load and proact.data.as_data return "
            f"it, got {type(data).__name__}"
        )
    return data


def as_data(
    data: SamplesOrData, validation_share: float = 0.2, collate: Collate | None = None
) -> Data:
    """Return training and validation samples for a protection method.

    Samples without a given division are divided: ``validation_share`` of every class becomes
    validation, by a fixed draw. The validation samples also serve as the test split, which no
    method uses.

    Args:
        data: a `Data`, or samples in one of the forms of `proact.data.as_split`.
        validation_share: in (0, 1).
        collate: see `proact.data.as_split`.

    Raises:
        TypeError, ValueError: the errors of `proact.data.as_split`, a share out of range, or too
            few samples.
    """
    if isinstance(data, Data):
        return data
    is_number = isinstance(validation_share, (int, float))
    if not (is_number and 0.0 < validation_share < 1.0):
        raise ValueError(
            f"validation_share: expected a number in (0, 1), got {short_repr(validation_share)}"
        )
    whole = as_split(data, collate)
    validation, train = divided(whole, (validation_share,))
    return Data("user data", train, validation, validation, _classes((whole,)))


def parts_of(data: SamplesOrData, collate: Collate | None = None) -> Data:
    """Divide samples into 65 % train, 15 % validation and 20 % test of every class.

    The draw is fixed. The arguments are those of `proact.data.as_split`.

    Raises:
        TypeError, ValueError: the errors of `proact.data.as_split`, or too few samples.
    """
    if isinstance(data, Data):
        return data
    whole = as_split(data, collate)
    test, validation, train = divided(whole, TEST_AND_VALIDATION)
    return Data("own", train, validation, test, _classes((whole,)))


def from_parts(
    train: Samples,
    test: Samples,
    validation: Samples | None = None,
    name: str = "own",
    collate: Collate | None = None,
) -> Data:
    """Make a data set from samples for each part.

    Args:
        train: samples for training, in one of the forms of `proact.data.as_split`.
        test: samples that only campaigns use.
        validation: samples for choices; None holds out a tenth of every class of ``train``, by a
            fixed draw.
        name: readable name.
        collate: see `proact.data.as_split`.

    Raises:
        TypeError, ValueError: the errors of `proact.data.as_split`; parts that differ in the shape
            of a sample, too few samples, or training or validation samples that are test samples
            (see `Data`).
    """
    training = as_split(train, collate)
    if validation is None:
        checked, training = divided(training, (HELD_OUT,))
    else:
        checked = as_split(validation, collate)
    parts = (training, checked, as_split(test, collate))
    shapes = {shape for part in parts for shape in _sample_shapes(part)}
    if len(shapes) > 1:
        raise ValueError(f"expected images of one shape in all parts, got {sorted(shapes)}")
    return Data(name, *parts, _classes(parts))


def as_evaluation(
    data: SamplesOrData, collate: Collate | None = None, *, in_batches: bool = False
) -> Split:
    """Return the samples of a campaign: the test split of a `Data`, or all samples.

    Args:
        data: a `Data`, or samples in one of the forms of `proact.data.as_split`.
        collate, in_batches: see `proact.data.as_split`.

    Raises:
        TypeError, ValueError: the errors of `proact.data.as_split`.
    """
    samples = data.test if isinstance(data, Data) else data
    return as_split(samples, collate, in_batches=in_batches)


def _classes(parts: Sequence[Split]) -> int:
    """The number of classes if the targets are class labels, else 0."""
    labels = [part.class_labels for part in parts]
    if any(label is None for label in labels):
        return 0
    return max(int(label.max()) for label in labels if label is not None) + 1


def _sample_shapes(split: Split) -> set[tuple[int, ...]]:
    """The shape of an image, if the inputs are one tensor."""
    if not isinstance(split.inputs, Tensor):
        return set()
    return {tuple(split.inputs.shape[1:])}
