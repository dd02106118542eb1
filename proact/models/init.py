"""Initial weights of networks without normalisation, or with it."""

from __future__ import annotations

from torch import nn


def scale_for_relu(network: nn.Module) -> None:
    """Weights whose variance keeps that of activations through convolutions, linear layers and
    ReLUs, and zero biases (K. He et al., arXiv 1502.01852); the last linear layer keeps torch's.
    """
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
