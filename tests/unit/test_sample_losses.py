"""Are the gradients those of the losses, also where PyTorch computes none?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from proact.campaign.sample_losses import LossGradients, SampleLosses
from proact.data import Split
from proact.nn.forward import Forward


def test_gradients_are_those_of_small_changes() -> None:
    torch.manual_seed(0)
    normal = nn.BatchNorm1d(6)
    model = nn.Sequential(nn.Linear(4, 6), normal, nn.Tanh(), nn.Linear(6, 3)).double().eval()
    for name, tensor in model.state_dict().items():
        if name.startswith("1.") and tensor.is_floating_point():
            tensor.uniform_(0.5, 2.0)
    split = Split(torch.randn(40, 4, dtype=torch.float64), torch.arange(40) % 3)
    losses = SampleLosses(model, split, 40, Forward())
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = LossGradients(model, losses).at(values)
    assert set(gradients) == set(values) - {"1.num_batches_tracked"}

    def total() -> float:
        with torch.no_grad():
            return sum(float(each.sum()) for each in losses.of(model))

    step = 1e-6
    for name, tensor in model.state_dict().items():
        if name in gradients:
            flat = tensor.view(-1)
            flat[0] += step
            above = total()
            flat[0] -= 2 * step
            below = total()
            flat[0] += step
            slope = (above - below) / (2 * step)
            assert float(gradients[name].view(-1)[0]) == pytest.approx(slope, rel=1e-6, abs=1e-7)
