"""The evaluation data of a campaign: inputs, targets, and the images that each trial draws."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from proact.data import Split, as_evaluation
from proact.data.dataset import PairOrData, content
from proact.ops.seeds import derived_words

#: The data that `proact.campaign.run` accepts: labelled images, inputs with targets, or inputs.
EvaluationData = PairOrData | tuple[Tensor, Tensor] | Tensor

#: Increase this when the same (seed, trial) would draw other images.
DRAW_VERSION = 2


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Evaluation inputs and targets.

    Attributes:
        inputs: (n, ...), any dtype.
        targets: (n, ...), or None.
        labels: the targets if they are class numbers, (n,) int64 and not negative; else None.
    """

    inputs: Tensor
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def labels(self) -> Tensor | None:
        targets = self.targets
        if targets is None or not _are_classes(targets) or int(targets.min()) < 0:
            return None
        return targets

    @cached_property
    def digest(self) -> str:
        """SHA-256 of values, shapes and dtypes, in hexadecimal."""
        if self.labels is not None and self.inputs.is_floating_point():
            return Split(self.inputs, self.labels).digest
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            if tensor is not None:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                for part in tensor.split(1024):
                    digest.update(content(part))
        return digest.hexdigest()


def evaluation_of(data: EvaluationData, for_classes: bool = True) -> Evaluation:
    """Check ``data`` and return it as an `Evaluation`.

    Args:
        data: see `proact.campaign.run`.
        for_classes: whether one-dimensional int64 targets must be valid class labels.

    Raises:
        TypeError, ValueError: ``data`` has another type, shapes that do not match, or values that
            are not finite.
    """
    if isinstance(data, Tensor):
        return _checked(data, None)
    if (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and not (for_classes and _are_classes(data[1]))
    ):
        inputs, targets = data
        if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
            raise TypeError(
                "data: expected a pair of tensors (inputs, targets), got "
                f"({type(inputs).__name__}, {type(targets).__name__})"
            )
        return _checked(inputs, targets)
    split = as_evaluation(data)
    return Evaluation(split.images, split.labels)


def _are_classes(targets: object) -> bool:
    return isinstance(targets, Tensor) and targets.dim() == 1 and targets.dtype == torch.int64


def _checked(inputs: Tensor, targets: Tensor | None) -> Evaluation:
    if not len(inputs) or (targets is not None and len(targets) != len(inputs)):
        shape = None if targets is None else tuple(targets.shape)
        raise ValueError(
            "data: expected at least one input and one target per input, got inputs of shape "
            f"{tuple(inputs.shape)} and targets of shape {shape}"
        )
    for tensor in (inputs, targets):
        if tensor is not None and not all(map(_is_finite, tensor.split(1024))):
            raise ValueError("data: expected finite numbers, got some that are NaN or infinite")
    return Evaluation(inputs, targets)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def drawn_images(seed: int, trial: int, available: int, images: int) -> list[int]:
    """Draw the images of a trial: ``images`` distinct numbers in [0, available).

    The numbers depend on (seed, trial) alone, not on the variant or fault. The first m of them are
    the images of a trial with m images.

    This is the beginning of a Fisher-Yates shuffle that is driven by 64-bit words derived from
    (seed, trial), so that it does not depend on a library's generator. Each index is the remainder
    of a word, which favours small indices by less than 2^-40.
    """
    moved: dict[int, int] = {}
    order = []
    for step, number in enumerate(derived_words(images, seed, "images", trial)):
        other = step + number % (available - step)
        order.append(moved.get(other, other))
        moved[other] = moved.get(step, step)
    return order
