"""What networks answer: logits, accuracy, and whether a network and labelled images fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.nn.outputs import logits_of
from proact.nn.site import eval_mode


def logits(model: nn.Module, images: Tensor, batch: int = 512) -> Tensor:
    """The outputs for all ``images``, in the mode in which the module stands, without autograd."""
    with torch.no_grad():
        return torch.cat([logits_of(model(part)) for part in images.split(batch)])


def accuracy(model: nn.Module, split: Split) -> float:
    """Top-1 accuracy in [0, 1]."""
    return float((logits(model, split.images).argmax(1) == split.labels).float().mean())


def check_fit(output: Tensor, labels: Tensor, name: str = "the network") -> None:
    """ValueError unless ``output`` is (images, classes) with a class for every label."""
    highest = int(labels.max())
    if output.dim() != 2 or output.shape[1] <= highest:
        raise ValueError(
            f"labels go up to {highest}, so a network's output is (images, classes) with more "
            f"classes than that; {name} gives {tuple(output.shape)}"
        )


def check_runs(model: nn.Module, images: Tensor, name: str = "the network") -> Tensor:
    """The logits for the images, in eval mode; ValueError where ``model`` does not run on them."""
    try:
        with eval_mode(model):
            return logits(model, images)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"{name} does not take images of shape (samples, "
            f"{', '.join(map(str, images.shape[1:]))}): {error}"
        ) from error


def check_takes(model: nn.Module, split: Split, name: str = "the network") -> None:
    """ValueError unless ``model`` runs on an image of ``split`` and its output fits the labels."""
    check_fit(check_runs(model, split.images[:1], name), split.labels, name)
