"""VGG-16 for small images: one linear layer after the convolutions.

K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv 1409.1556, configuration D.
"""

from __future__ import annotations

from torch import nn

from proact.models.classifier import add_classifier
from proact.models.init import scale_for_relu

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(num_classes: int, in_channels: int) -> nn.Sequential:
    """Make VGG-16: 13 ReLUs; 14,719,818 parameters for 10 classes and 3 channels.

    Maps images (n, in_channels, height, width) to logits (n, num_classes).
    """
    return _vgg(num_classes, in_channels, batch_norm=False)


def vgg16_bn(num_classes: int, in_channels: int) -> nn.Sequential:
    """Make `vgg16` with batch normalisation after every convolution."""
    return _vgg(num_classes, in_channels, batch_norm=True)


def _vgg(num_classes: int, in_channels: int, batch_norm: bool) -> nn.Sequential:
    model = nn.Sequential()
    before = in_channels
    for stage, widths in enumerate(_STAGES, 1):
        for position, width in enumerate(widths, 1):
            name = f"{stage}_{position}"
            model.add_module(f"conv{name}", nn.Conv2d(before, width, 3, padding=1))
            if batch_norm:
                model.add_module(f"norm{name}", nn.BatchNorm2d(width))
            model.add_module(f"relu{name}", nn.ReLU())
            before = width
        # Rounding up: an image under 32x32 keeps one pixel to the end.
        model.add_module(f"pool{stage}", nn.MaxPool2d(2, ceil_mode=True))
    add_classifier(model, before, num_classes)
    scale_for_relu(model)
    return model
