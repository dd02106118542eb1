"""The classifier at the end of most models: one average per channel, and a linear layer."""

from __future__ import annotations

from torch import nn


def add_classifier(model: nn.Sequential, channels: int, num_classes: int) -> None:
    """Append ``pool``, ``flatten`` and ``output`` after ``channels`` feature maps of any size."""
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("output", nn.Linear(channels, num_classes))
