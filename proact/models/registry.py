"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from proact.models.small_cnn import small_cnn

_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {"small-cnn": small_cnn}


def create(name: str, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """An untrained network; torch's global seed decides its weights.

    Raises:
        ValueError: an unknown name; see `names`.
    """
    if name not in _BUILDERS:
        raise ValueError(f"a model is one of {', '.join(_BUILDERS)}; got {name!r}")
    return _BUILDERS[name](num_classes, in_channels)


def names() -> list[str]:
    return list(_BUILDERS)
