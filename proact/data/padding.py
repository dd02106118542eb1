"""Pad images with black pixels."""

from __future__ import annotations

from dataclasses import replace

import torch

from proact.data.dataset import Data
from proact.data.memory import check_memory
from proact.data.split import Split


def padded(data: Data, image_size: int) -> Data:
    """Return the data set with black pixels around its images, as many on each side.

    Args:
        data: images (n, channels, height, width), normalised by ``data.mean`` and
            ``data.deviation``.
        image_size: height and width of the result in pixels.

    Raises:
        ValueError: an image is larger than ``image_size``.
        ProactError: the images would not fit into memory.
    """
    channels, *size = data.train.images.shape[1:]
    if max(size) > image_size:
        raise ValueError(
            f"image_size: expected at least the {size[0]}x{size[1]} pixels of the images of "
            f"{data.name}, got {image_size}"
        )
    if size == [image_size, image_size]:
        return data
    samples = sum(map(len, (data.train, data.validation, data.test)))
    check_memory(f"the images of {data.name}", samples, channels, image_size, image_size)
    top, left = ((image_size - length) // 2 for length in size)
    mean, deviation = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.deviation))
    black = -mean / deviation

    def part(split: Split) -> Split:
        images = black.repeat(len(split), 1, 1, 1).expand(-1, channels, image_size, image_size)
        images = images.contiguous()
        images[..., top : top + size[0], left : left + size[1]] = split.images
        return Split(images, split.targets)

    return replace(
        data, train=part(data.train), validation=part(data.validation), test=part(data.test)
    )
