"""AlexNet for small images.

A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks", NeurIPS 2012: five convolutions and three linear layers, with 3x3 kernels and the widths
that are usual for CIFAR. There is no dropout, as in the AlexNet of ProAct's authors.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from proact.models.init import scale_for_relu


def alexnet(num_classes: int, in_channels: int) -> nn.Sequential:
    """Make AlexNet: 7 ReLUs, the last one of 4,096 neurons.

    Maps images (n, in_channels, height, width) to logits (n, num_classes).
    """
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 64, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            pool1=_halve(),
            conv2=nn.Conv2d(64, 192, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=_halve(),
            conv3=nn.Conv2d(192, 384, 3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(384, 256, 3, padding=1),
            relu4=nn.ReLU(),
            conv5=nn.Conv2d(256, 256, 3, padding=1),
            relu5=nn.ReLU(),
            pool5=nn.AdaptiveMaxPool2d(2),
            flatten=nn.Flatten(),
            linear6=nn.Linear(256 * 2 * 2, 4096),
            relu6=nn.ReLU(),
            linear7=nn.Linear(4096, 4096),
            relu7=nn.ReLU(),
            output=nn.Linear(4096, num_classes),
        )
    )
    scale_for_relu(model)
    return model


def _halve() -> nn.MaxPool2d:
    # Rounding up: odd sizes keep their edge, and small images never shrink to nothing.
    return nn.MaxPool2d(2, ceil_mode=True)
