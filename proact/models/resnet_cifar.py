"""ResNet-20, 32, 44 and 56: the narrow family for CIFAR.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv 1512.03385,
section 4.2; shortcuts without parameters (option A).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from proact.models.classifier import add_classifier
from proact.models.init import scale_for_relu


class CifarBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut that skips pixels and pads channels with zeros."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stride, self.added = width // inputs, width - inputs
        self.conv1 = nn.Conv2d(inputs, width, 3, self.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        output: Tensor = self.relu2(y + x)
        return output


def _resnet_cifar(blocks_per_stage: int, num_classes: int, in_channels: int) -> nn.Sequential:
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
        )
    )
    before = 16
    for stage, width in enumerate((16, 32, 64), 1):
        blocks = nn.Sequential()
        for _ in range(blocks_per_stage):
            blocks.append(CifarBlock(before, width))
            before = width
        model.add_module(f"stage{stage}", blocks)
    add_classifier(model, before, num_classes)
    scale_for_relu(model)
    return model


# 6 n + 2 layers with weights, n blocks a stage.
resnet20 = partial(_resnet_cifar, 3)
resnet32 = partial(_resnet_cifar, 5)
resnet44 = partial(_resnet_cifar, 7)
resnet56 = partial(_resnet_cifar, 9)
