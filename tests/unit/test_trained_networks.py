"""Do the methods that train go through networks as people write them?"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import protect
from proact.data import Data
from proact.nn import HyReLU

METHODS: dict[str, dict[str, Any]] = {
    "fitact": {"epochs": 1},
    "proact": {"epochs": 1, "decays": (1.0,)},
    "resilience-aware-proact": {"epochs": 1, "decays": (1.0,), "patterns": 2, "quantiles": (0.9,)},
}
SIDE = 8


class Viewing(nn.Module):
    """torch's tutorial network: a view that only one order in memory allows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.output = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.act(self.conv(x)).view(-1, 6 * 36))
        return out


class Branches(nn.Module):
    """Neither branch's activation is behind the other's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(192, 5), nn.Linear(192, 5)
        self.first, self.second, self.output = nn.ReLU(), nn.ReLU(), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        both = torch.cat([self.first(self.a(x)), self.second(self.b(x))], 1)
        out: Tensor = self.output(both)
        return out


class Auxiliary(nn.Module):
    """A second output, whose activation decides no logit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.output = nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 4)
        self.p, self.aside = nn.Linear(5, 5), nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.act(self.a(x.flatten(1)))
        return self.output(hidden), self.aside(self.p(hidden))


class Volume(nn.Module):
    """A buffer with five dimensions, which has no channels-last order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.output = nn.Linear(4 * 36, 4)
        self.register_buffer("grid", torch.ones(1, 1, 2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.act(self.conv(x)).flatten(1)) * self.grid.mean()
        return out


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(120, 3, SIDE, SIDE, generator=generator), torch.arange(120) % 4


def thresholds(model: nn.Module) -> dict[str, Tensor]:
    return {n: m.threshold.detach() for n, m in model.named_modules() if isinstance(m, HyReLU)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", [Viewing, Branches, Auxiliary, Volume])
def test_every_method_trains_it(
    method: str, network: type[nn.Module], data: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    model, lines = network().eval(), []
    start = thresholds(protect.protect(model, "ranger", data, granularity="layer"))
    hardened = protect.protect(
        model, method, data, granularity="layer", tolerance=1.0, progress=lines.append,
        **METHODS[method],
    )  # fmt: skip
    for name, threshold in thresholds(hardened).items():
        assert threshold > 0
        if name == "aside":  # nothing resists a decay there: it is not trained
            assert threshold == start[name] or method == "resilience-aware-proact"
        elif method != "resilience-aware-proact":
            assert threshold < start[name]
    if network is Auxiliary and method != "fitact":
        assert any("aside: no gradient reaches it" in line for line in lines)


@pytest.mark.parametrize("method", ["fitact", "proact"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_train_as_float32_does(
    trained_cnn: nn.Module, digits: Data, method: str, dtype: torch.dtype
) -> None:
    """Adam's squares underflow in halves: without masters in float32 thresholds became infinite."""

    few = [part.take(torch.arange(200)) for part in (digits.train, digits.validation, digits.test)]
    options = {"epochs": 1, "granularity": "layer", "tolerance": 1.0}
    if method == "proact":
        options["decays"] = (0.3,)

    def trained(as_dtype: torch.dtype) -> dict[str, Tensor]:
        cast = [type(part)(part.images.to(as_dtype), part.labels) for part in few]
        model = copy.deepcopy(trained_cnn).to(as_dtype)
        return thresholds(protect.protect(model, method, Data("few", *cast, 10), **options))

    expected = trained(torch.float32)
    for name, threshold in trained(dtype).items():
        assert threshold.dtype == dtype
        torch.testing.assert_close(threshold.float(), expected[name], rtol=0.03, atol=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_start_that_costs_too_much_is_refused(
    trained_cnn: nn.Module, digits: Data, method: str
) -> None:
    with pytest.raises(ValueError, match="more than the tolerance of 0.015: use a higher quantile"):
        protect.protect(trained_cnn, method, digits, quantile=0.2, **METHODS[method])
