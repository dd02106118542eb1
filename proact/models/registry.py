"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from proact.errors import unknown
from proact.models.alexnet import alexnet
from proact.models.mobilenetv2 import mobilenetv2
from proact.models.resnet import resnet18, resnet34, resnet50
from proact.models.resnet_cifar import resnet20, resnet32, resnet44, resnet56
from proact.models.small_cnn import small_cnn
from proact.models.vgg import vgg16, vgg16_bn

_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "small-cnn": small_cnn,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "vgg16-bn": vgg16_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "mobilenetv2": mobilenetv2,
}


def create(name: str, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """An untrained network for images (samples, in_channels, height, width) of any size from 4x4
    up, with outputs (samples, num_classes); torch's global seed decides its weights.

    Raises:
        ValueError: an unknown name, see `names`; classes or channels under 1. TypeError: others
            than integers.
    """
    if name not in _BUILDERS:
        raise unknown("model", name, _BUILDERS)
    for kind, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"{kind} is an integer, got {count!r}")
        if count < 1:
            raise ValueError(f"{kind} is at least 1, got {count}")
    return _BUILDERS[name](num_classes, in_channels)


def names() -> list[str]:
    """What `create` takes."""
    return list(_BUILDERS)
