"""Parameter shapes of the models in which flips are measured, by name of the tensor."""

from __future__ import annotations

from collections.abc import Callable

Shapes = dict[str, tuple[int, ...]]


def resnet20() -> Shapes:
    """For CIFAR-10 (arXiv 1512.03385, section 4.2): shortcuts without parameters; 0.27 M."""
    shapes: Shapes = {}
    _add_convolution(shapes, "stem", 3, 16, 3)
    before = 16
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(3):
            _add_convolution(shapes, f"stage{stage}.{block}.first", before, channels, 3)
            _add_convolution(shapes, f"stage{stage}.{block}.second", channels, channels, 3)
            before = channels
    _add_linear(shapes, "classifier", before, 10)
    return shapes


def vgg16() -> Shapes:
    """For CIFAR-10: 13 convolutions with bias and batch norm, one linear layer; 14.7 M."""
    shapes: Shapes = {}
    before = 3
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    for layer, channels in enumerate(widths):
        _add_convolution(shapes, f"features.{layer}", before, channels, 3, bias=True)
        before = channels
    _add_linear(shapes, "classifier", before, 10)
    return shapes


def resnet50() -> Shapes:
    """For ImageNet with 1000 classes (arXiv 1512.03385, table 1): bottlenecks; 25.6 M."""
    shapes: Shapes = {}
    _add_convolution(shapes, "stem", 3, 64, 7)
    before = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            name = f"stage{stage}.{block}"
            _add_convolution(shapes, f"{name}.reduce", before, width, 1)
            _add_convolution(shapes, f"{name}.spatial", width, width, 3)
            _add_convolution(shapes, f"{name}.expand", width, 4 * width, 1)
            if block == 0:
                _add_convolution(shapes, f"{name}.shortcut", before, 4 * width, 1)
            before = 4 * width
    _add_linear(shapes, "classifier", before, 1000)
    return shapes


def _add_convolution(
    shapes: Shapes, name: str, inputs: int, outputs: int, kernel: int, bias: bool = False
) -> None:
    """A convolution and the batch norm behind it."""
    shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
    if bias:
        shapes[f"{name}.bias"] = (outputs,)
    shapes[f"{name}.norm.weight"] = (outputs,)
    shapes[f"{name}.norm.bias"] = (outputs,)


def _add_linear(shapes: Shapes, name: str, inputs: int, outputs: int) -> None:
    shapes[f"{name}.weight"] = (outputs, inputs)
    shapes[f"{name}.bias"] = (outputs,)


MODELS: dict[str, Callable[[], Shapes]] = {
    "ResNet-20": resnet20,
    "VGG-16": vgg16,
    "ResNet-50": resnet50,
}
