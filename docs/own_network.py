"""An example of your own model and data, for ``--model`` and ``--data``.

    proact campaign --model docs/own_network.py:network --data docs/own_network.py:data

It does not import proact. One function returns a trained model, the other one labelled inputs.
"""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn


@cache
def data() -> tuple[Tensor, Tensor]:
    """178 wines of three cultivars, each with 13 measurements."""
    measured, cultivars = load_wine(return_X_y=True)
    inputs = torch.tensor(measured, dtype=torch.float32)
    return (inputs - inputs.mean(0)) / inputs.std(0), torch.tensor(cultivars)


class Wines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(13, 16), nn.Linear(16, 16)])
        self.output = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits: Tensor = self.output(x)
        return logits


def network() -> nn.Module:
    """Trains a model on all wines. Yours would load a checkpoint instead, from a training that did
    not use the test images."""
    torch.manual_seed(0)
    model, (inputs, cultivars) = Wines(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), cultivars).backward()
        optimizer.step()
    return model.eval()
