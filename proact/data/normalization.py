"""Convert bytes to normalised tensors, without a second copy of the whole data set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.data.dataset import HELD_OUT, Augmentation, Data, stratified_parts
from proact.data.split import Split

Pixels = NDArray[np.uint8]


def from_pixels(
    name: str,
    train: tuple[Pixels, Pixels],
    test: tuple[Pixels, Pixels],
    labels: tuple[str, ...],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
    augmentation: Augmentation,
) -> Data:
    """Make a data set from its official parts.

    A tenth of every class of the training part becomes validation, by a fixed draw.

    Args:
        name: readable name.
        train, test: pixels (n, channels, height, width) uint8 and labels (n,) uint8.
        labels: names of the classes.
        mean, deviation: of the normalisation of pixels in [0, 1], one value per channel.
        augmentation: allowed changes of training images.
    """
    targets = torch.from_numpy(train[1].astype(np.int64))
    validation, rest = stratified_parts(targets, (HELD_OUT,), seed=0)

    def split(part: tuple[Pixels, Pixels], indices: Tensor) -> Split:
        images = normalised(part[0], indices, mean, deviation)
        return Split(images, torch.from_numpy(part[1].astype(np.int64))[indices])

    return Data(
        name,
        split(train, rest),
        split(train, validation),
        split(test, torch.arange(len(test[1]))),
        len(labels),
        labels,
        mean,
        deviation,
        augmentation,
    )


def normalised(
    pixels: Pixels, indices: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Tensor:
    """Return (pixels / 255 - mean) / deviation of the images at ``indices``, float32."""
    result = torch.empty((len(indices), *pixels.shape[1:]))
    # One multiplication and one addition per pixel.
    scale = 1 / (255 * torch.tensor(deviation)).view(-1, 1, 1)
    offset = -(torch.tensor(mean) / torch.tensor(deviation)).view(-1, 1, 1)
    for part, chosen in zip(result.split(1024), indices.split(1024), strict=True):
        torch.mul(torch.from_numpy(pixels[chosen.numpy()]), scale, out=part).add_(offset)
    return result
