"""MobileNetV2 for small images: without the first two strides.

M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", arXiv 1801.04381, table 2.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from proact.models.classifier import add_classifier

# Expansion, output channels, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3), project (1x1, linear), add where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers["expand"] = _convolution(inputs, width, 1)
        layers["depthwise"] = _convolution(width, width, 3, stride, groups=width)
        layers["project"] = nn.Conv2d(width, outputs, 1, bias=False)
        layers["norm"] = nn.BatchNorm2d(outputs)
        self.layers = nn.Sequential(layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            norm=nn.BatchNorm2d(outputs),
            relu=nn.ReLU6(),
        )
    )


def mobilenetv2(num_classes: int, in_channels: int) -> nn.Sequential:
    """Make MobileNetV2: 35 ReLU6 activations; 2,236,682 parameters for 10 classes and 3 channels.

    Maps images (n, in_channels, height, width) to logits (n, num_classes).
    """
    model = nn.Sequential(OrderedDict(stem=_convolution(in_channels, 32, 3)))
    before = 32
    for stage, (expansion, width, depth, stride) in enumerate(_STAGES, 1):
        blocks = nn.Sequential()
        for position in range(depth):
            blocks.append(
                InvertedResidual(before, width, stride if position == 0 else 1, expansion)
            )
            before = width
        model.add_module(f"stage{stage}", blocks)
    model.add_module("head", _convolution(before, 1280, 1))
    add_classifier(model, 1280, num_classes)
    return model
