"""Small models for tests of guards on stored values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.nn import ErrorCorrection, HyReLU, error_correction_of

CODES = ("secded", "bch2", "bch3", "parity", "mset", "cep")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def small_network(channels: int, features: int, batches: int) -> nn.Sequential:
    """A network for `IMAGES` with normalisation and clips, in eval mode.

    Its running statistics are those of some batches of random images.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, channels, 3),
        nn.BatchNorm2d(channels),
        HyReLU(1.7),
        nn.Flatten(),
        nn.Linear(16 * channels, features),
        HyReLU(torch.rand(features) + 0.3),
        nn.Linear(features, 3),
    )
    with torch.no_grad():
        for _ in range(batches):
            model(torch.randn(9, 2, 6, 6))
    return model.eval()


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A network that ecc can guard, with every kind of stored tensor."""
    model = small_network(5, 7, 5)
    model.register_buffer("whole", torch.arange(-60, 61, dtype=torch.int8))
    return model.to(dtype)


def run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        dtype = next(model.parameters()).dtype
        out: Tensor = model(IMAGES.to(dtype))
    return out


def guard_of(model: nn.Module) -> ErrorCorrection:
    guard = error_correction_of(model)
    assert guard is not None
    return guard
