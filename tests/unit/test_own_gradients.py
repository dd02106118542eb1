"""Do campaigns run models that differentiate inside their own forward pass?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import campaign
from proact.campaign.clean_results import clean_value
from proact.data import as_evaluation
from proact.faults import ActivationFlip, BitFlip, encode, inject

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(4))


class Force(nn.Module):
    """An interatomic potential: forces are gradients of an energy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 1))
        self.modes: set[bool] = set()

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.net(x).sum(), x)
        return -gradient


CLOSE = campaign.Metric(
    "close",
    lambda out, targets, clean: ((out - clean).abs().amax(1) < 0.05).float(),
    needs_targets=False,
)


@pytest.mark.parametrize("fault", [BitFlip(1e-2), ActivationFlip(1e-2)], ids=["stored", "passing"])
def test_trials_give_what_inject_gives(fault: Any) -> None:
    options: dict[str, Any] = {"trials": 6, "images_per_trial": "all", "executor": 1, "seed": 3}
    result = campaign.run({"force": Force()}, X, [fault], metric=CLOSE, **options)
    model = encode(Force(), "float32").eval()
    clean = model(X)
    expected = []
    for trial in range(6):
        with inject(model, fault, seed=3, trial=trial), torch.no_grad():
            expected.append(((model(X) - clean).abs().amax(1) < 0.05).float().mean().item())
    assert min(expected) < 1.0
    (row,) = result.to_pandas().to_dict("records")
    assert row["close"] == pytest.approx(sum(expected) / 6)
    assert row["clean"] == 1.0


def test_a_clean_value_is_computed() -> None:
    metric = campaign.Metric("size", lambda out, targets, clean: out.norm(dim=1))
    data = as_evaluation((X, torch.zeros(24)))
    found = clean_value(Force().eval(), data, metric)
    assert found == pytest.approx(Force()(X).norm(dim=1).mean().item())


class Modes(nn.Module):
    """Notes the modes in which it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(torch.is_inference_mode_enabled())
        return self.head(x)


SEEN: list[bool] = []


def test_other_models_still_run_in_inference_mode() -> None:
    SEEN.clear()
    campaign.run({"n": Modes()}, X, [BitFlip(1e-2)], metric=CLOSE, trials=3, executor=1)
    assert SEEN.count(False) <= 1


def test_an_error_of_the_model_is_told_as_before() -> None:
    class Broken(Modes):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("own error")

    with pytest.raises(ValueError, match="n raises an error for 2 samples .*KeyError: 'own error'"):
        campaign.run({"n": Broken()}, X, [BitFlip(1e-2)], metric=CLOSE, trials=3, executor=1)
