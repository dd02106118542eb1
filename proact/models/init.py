"""Initial weights of models with or without normalisation."""

from __future__ import annotations

from torch import nn


def scale_for_relu(model: nn.Module) -> None:
    """Set weights that preserve the variance of activations through ReLUs, and zero biases.

    See K. He et al., arXiv 1502.01852. The last linear layer keeps torch's initial weights.
    """
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
