"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from proact import data, models
from proact.data import Data

# Tiny networks gain nothing from threads, and lose much where other programs want the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Data:
    return data.load("digits")


@pytest.fixture(scope="session")
def trained_cnn(digits: Data) -> nn.Module:
    """Shared: a test that changes it takes a copy."""
    return models.trained("small-cnn", digits, seed=0)


@pytest.fixture
def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def bits_of(model: nn.Module) -> dict[str, Tensor]:
    """Every stored byte of a model, to compare with later."""
    return {
        name: tensor.detach().clone().reshape(-1).view(torch.uint8)
        for name, tensor in model.state_dict().items()
    }


def same_bits(before: dict[str, Tensor], model: nn.Module) -> bool:
    now = bits_of(model)
    return before.keys() == now.keys() and all(torch.equal(before[k], now[k]) for k in before)
