"""The model of the demo, small enough to train in seconds."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def small_cnn(num_classes: int, in_channels: int) -> nn.Sequential:
    """Three convolutions, one hidden layer of 64 neurons, four ReLUs; 8,378 parameters for 10
    classes and 1 channel. Takes images of any size from 4x4 up."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 8, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(16, 16, 3, padding=1),
            relu3=nn.ReLU(),
            pool=nn.AdaptiveMaxPool2d(2),
            flatten=nn.Flatten(),
            hidden=nn.Linear(64, 64),
            relu4=nn.ReLU(),
            output=nn.Linear(64, num_classes),
        )
    )
