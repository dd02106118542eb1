"""What a campaign judges on: inputs, what is expected of them, and which of them a trial draws."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from proact.data import Split, as_evaluation
from proact.data.dataset import PairOrData, content
from proact.ops.seeds import derived_words

#: What `proact.campaign.run` takes: also inputs with targets of any kind, or inputs alone.
EvaluationData = PairOrData | tuple[Tensor, Tensor] | Tensor

#: Raise it when the same (seed, trial) comes to draw other images.
DRAW_VERSION = 2


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Inputs (n, ...) and targets (n, ...) or None; ``labels`` are the targets where they are
    classes: (n,) int64."""

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
        """SHA-256 of the content, shapes and dtypes, in hexadecimal."""
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
    """The images of ``data``; TypeError or ValueError for what is none, or, ``for_classes``, has
    integer targets that are no classes."""
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
                "data is a pair of tensors (inputs, targets), got "
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
            "data takes one target an input and at least one input, got inputs of shape "
            f"{tuple(inputs.shape)} and targets of shape {shape}"
        )
    for tensor in (inputs, targets):
        if tensor is not None and not all(map(_is_finite, tensor.split(1024))):
            raise ValueError("data takes finite numbers, and some are NaN or infinite")
    return Evaluation(inputs, targets)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def drawn(seed: int, trial: int, available: int, images: int) -> list[int]:
    """The images of a trial: ``images`` different numbers in [0, available), the same for every
    variant and fault; the first m of them are those of a trial with m images.

    The first steps of R. Fisher and F. Yates' shuffle, by words derived from (seed, trial), so that
    no library's generator decides. Of 64 bits an index takes the remainder, which favours small
    ones by less than 2^-40.
    """
    moved: dict[int, int] = {}
    order = []
    for step, number in enumerate(derived_words(images, seed, "images", trial)):
        other = step + number % (available - step)
        order.append(moved.get(other, other))
        moved[other] = moved.get(step, step)
    return order
