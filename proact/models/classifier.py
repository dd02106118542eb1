"""The classifier at the end of most models: one average per channel, and a linear layer."""

from __future__ import annotations

from torch import nn


def add_classifier(network: nn.Sequential, channels: int, num_classes: int) -> None:
    """Append ``pool``, ``flatten`` and ``output`` after ``channels`` feature maps of any size."""
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("output", nn.Linear(channels, num_classes))
