"""Does FitAct train all thresholds at once, with its penalty and its guard?"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import models, protect
from proact.data import Data
from proact.nn import HyReLU


def thresholds(model: nn.Module) -> list[Tensor]:
    return [m.threshold.detach() for m in model.modules() if isinstance(m, HyReLU)]


def fitted(model: nn.Module, data: Data, **options: Any) -> nn.Module:
    return protect.protect(model, "fitact", data, **{"epochs": 1, "tolerance": 1.0, **options})


def test_every_neurons_threshold_moves_and_nothing_else(
    trained_cnn: nn.Module, digits: Data
) -> None:
    start = thresholds(protect.protect(trained_cnn, "ranger", digits, granularity="neuron"))
    # A penalty that outweighs the loss, whose gradient grows with T no faster.
    hardened = fitted(trained_cnn, digits, penalty=1e3)
    for found, before in zip(thresholds(hardened), start, strict=True):
        assert found.shape == before.shape
        alive = before > 0.05
        assert (found[alive] < before[alive]).all()
        assert len(found[alive].unique()) > alive.sum() // 2
    for name, parameter in trained_cnn.named_parameters():
        assert torch.equal(parameter, hardened.get_parameter(name))


def test_a_stronger_penalty_gives_smaller_thresholds(trained_cnn: nn.Module, digits: Data) -> None:
    means = [
        torch.cat([t.flatten() for t in thresholds(fitted(trained_cnn, digits, penalty=p))]).mean()
        for p in (0.0, 1e-4, 1.0)
    ]
    assert means[2] < means[1] < means[0]


def test_a_step_follows_the_papers_loss(double_cnn: nn.Module, double_digits: Data) -> None:
    """One step of plain Adam on CE + lambda mean(T^2), everything in eager torch."""
    few = Data(
        "few",
        double_digits.train.take(torch.arange(64)),
        double_digits.validation,
        double_digits.test,
        10,
    )
    plain = protect.protect(double_cnn, "ranger", few, granularity="neuron")
    hardened = fitted(double_cnn, few, penalty=3.0, batch=64, learning_rate=0.01)
    clips = [module for module in plain.modules() if isinstance(module, HyReLU)]
    for clip in clips:
        clip.mode = "soft"
    mine = [clip.threshold for clip in clips]
    for parameter in plain.parameters():
        parameter.requires_grad_(any(parameter is t for t in mine))
    optimizer = torch.optim.Adam(mine, lr=0.01)
    loss = nn.functional.cross_entropy(plain(few.train.images), few.train.labels)
    penalty = torch.cat([t.flatten() ** 2 for t in mine]).mean()
    (loss + 3.0 * penalty).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for found, expected in zip(thresholds(hardened), mine, strict=True):
        torch.testing.assert_close(found, expected.detach().clamp(min=0), rtol=1e-7, atol=1e-9)


def test_the_guard_takes_the_epoch_before(trained_cnn: nn.Module, digits: Data) -> None:
    lines: list[str] = []
    clean = models.accuracy(trained_cnn, digits.validation)
    hardened = protect.protect(
        trained_cnn,
        "fitact",
        digits,
        learning_rate=0.05,
        penalty=1000.0,
        tolerance=0.03,
        epochs=40,
        progress=lines.append,
    )
    assert "loses too much: the epoch before it is kept" in lines[-1]
    assert all("accepted" in line for line in lines[:-1])
    assert models.accuracy(hardened, digits.validation) >= clean - 0.03


def test_batch_norm_stays_as_it_is(digits: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )
    before = copy.deepcopy(model.state_dict())
    hardened = fitted(model.train(), digits, samples=200)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(hardened[1].running_mean, before["1.running_mean"])  # type: ignore[index]


@pytest.mark.parametrize("option", [{"penalty": -1.0}, {"learning_rate": 0.0}, {"samples": 0}])
def test_bad_options(trained_cnn: nn.Module, digits: Data, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        protect.protect(trained_cnn, "fitact", digits, **option)
