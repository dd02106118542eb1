"""Logits and accuracy of models, and checks that a model fits labelled images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.nn.forward import logits_of
from proact.nn.model_kinds import refuse_lazy
from proact.nn.site import eval_mode


def logits(model: nn.Module, images: Tensor, batch: int = 512) -> Tensor:
    """Compute the outputs (n, ...) of all images in the model's current mode, without autograd."""
    with torch.no_grad():
        return torch.cat([logits_of(model(part)) for part in images.split(batch)])


def accuracy(model: nn.Module, split: Split) -> float:
    """Return the top-1 accuracy in [0, 1]."""
    return float((logits(model, split.images).argmax(1) == split.labels).float().mean())


def check_fit(
    output: Tensor, labels: Tensor, name: str = "the model", images: int | None = None
) -> None:
    """Raise ValueError unless ``output`` is (images, classes) with a class for every label.

    Args:
        images: the number of images that gave the output; None if it does not matter.
    """
    highest = int(labels.max())
    if output.dim() != 2 or output.shape[1] <= highest:
        raise ValueError(
            f"labels go up to {highest}, so the model's output is (images, classes) with more "
            f"classes than that; {name} gives {tuple(output.shape)}{_for(images)}"
        )


def check_runs(model: nn.Module, images: Tensor, name: str = "the model") -> Tensor:
    """Compute the logits in eval mode.

    Raises:
        ValueError: ``model`` has a lazy layer without a shape, or does not accept the images.
    """
    refuse_lazy(model)
    try:
        with eval_mode(model):
            return logits(model, images)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name} does not take images of shape (samples, "
            f"{', '.join(map(str, images.shape[1:]))}){_for(len(images))}: {error}"
        ) from error


def check_takes(model: nn.Module, split: Split, name: str = "the model") -> None:
    """Raise ValueError unless ``model`` accepts ``split`` and its output fits the labels.

    The model runs on two images: some models need more than one in a batch.
    """
    images = split.images[:2]
    check_fit(check_runs(model, images, name), split.labels, name, len(images))


def _for(images: int | None) -> str:
    return "" if images is None else " for one image" if images == 1 else f" for {images} images"
