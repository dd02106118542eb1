"""ResNet-18, 34 and 50 for small images: ImageNet's stages behind a 3x3 stem without pooling.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv 1512.03385,
table 1; projections where a shortcut changes shape.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from proact.models.classifier import add_classifier


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        output: Tensor = self.relu2(y + self.shortcut(x))
        return output


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, around a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.relu2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        output: Tensor = self.relu3(y + self.shortcut(x))
        return output


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm=nn.BatchNorm2d(outputs)
        )
    )


def _resnet(
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int, int],
    num_classes: int,
    in_channels: int,
) -> nn.Sequential:
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, 64, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
        )
    )
    before = 64
    for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
        blocks = nn.Sequential()
        for position in range(depth):
            stride = 2 if stage > 1 and position == 0 else 1
            blocks.append(block(before, width, stride))
            before = width * block.expansion
        model.add_module(f"stage{stage}", blocks)
    add_classifier(model, before, num_classes)
    return model


resnet18 = partial(_resnet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(_resnet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(_resnet, Bottleneck, (3, 4, 6, 3))
