"""A small model with every kind of stored tensor, for tests of ecc."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.nn import ErrorCorrection, HyReLU, error_correction_of

CODES = ("secded", "bch2", "bch3", "parity", "mset", "cep")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3),
        nn.BatchNorm2d(5),
        HyReLU(1.7),
        nn.Flatten(),
        nn.Linear(80, 7),
        HyReLU(torch.rand(7) + 0.3),
        nn.Linear(7, 3),
    )
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(9, 2, 6, 6))
    model.register_buffer("whole", torch.arange(-60, 61, dtype=torch.int8))
    return model.to(dtype).eval()


def run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        dtype = next(model.parameters()).dtype
        out: Tensor = model(IMAGES.to(dtype))
    return out


def guard_of(model: nn.Module) -> ErrorCorrection:
    guard = error_correction_of(model)
    assert guard is not None
    return guard
