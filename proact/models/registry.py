"""Make models by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from proact.errors import unknown
from proact.text import short_repr

if TYPE_CHECKING:
    from torch import nn

#: By name, the module with the function that builds the model. Modules load when they are needed,
#: so that names can be listed without waiting for torch.
_MODULES = {
    "small-cnn": "small_cnn",
    "alexnet": "alexnet",
    "vgg16": "vgg",
    "vgg16-bn": "vgg",
    "resnet18": "resnet",
    "resnet34": "resnet",
    "resnet50": "resnet",
    "resnet20": "resnet_cifar",
    "resnet32": "resnet_cifar",
    "resnet44": "resnet_cifar",
    "resnet56": "resnet_cifar",
    "mobilenetv2": "mobilenetv2",
}


def create(name: str, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Make an untrained model; torch's global seed determines its weights.

    The model maps float32 images (n, in_channels, height, width) of at least 4x4 pixels to logits
    (n, num_classes). It is in training mode.

    Raises:
        ValueError: an unknown name, or fewer than 1 class or channel.
        TypeError: classes or channels are not integers.
    """
    if name not in _MODULES:
        raise unknown("model", name, _MODULES)
    for kind, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"{kind} is an integer, got {short_repr(count)}")
        if count < 1:
            raise ValueError(f"{kind} is at least 1, got {count}")
    module = import_module(f"proact.models.{_MODULES[name]}")
    model: nn.Module = getattr(module, name.replace("-", "_"))(num_classes, in_channels)
    return model


def names() -> list[str]:
    """Return the names that `create` accepts."""
    return list(_MODULES)
