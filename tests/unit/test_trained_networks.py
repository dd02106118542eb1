"""Do the methods that train go through networks as people write them?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proact import protect
from proact.data import Data, Split
from proact.nn import HyReLU

#: The penalty and the decay are far above what any gradient of the loss can hold against them.
METHODS: dict[str, dict[str, Any]] = {
    "fitact": {"epochs": 1, "penalty": 1e3},
    "proact": {"epochs": 1, "decays": (10.0,)},
    "resilience-aware-proact": {"epochs": 1, "decays": (1.0,), "patterns": 2, "quantiles": (0.9,)},
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
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
    # Of several tensors, the one that counts has to be named.
    output = 0 if network is Auxiliary else None
    start = thresholds(protect.protect(model, "ranger", data, granularity="layer", output=output))
    hardened = protect.protect(
        model, method, data, granularity="layer", tolerance=1.0, progress=lines.append,
        output=output, **METHODS[method],
    )  # fmt: skip
    for name, threshold in thresholds(hardened).items():
        assert threshold > 0
        if name == "aside":  # nothing resists a decay there: it is not trained
            assert threshold == start[name] or method == "resilience-aware-proact"
        elif method != "resilience-aware-proact":
            assert threshold < start[name]
    if network is Auxiliary and method != "fitact":
        assert any("aside: no gradient reaches it" in line for line in lines)


def largest_moves(rates: Sequence[float]) -> float:
    """The farthest that Adam without decay takes a parameter with one learning rate a step.

    A step is the rate times m / sqrt(v), both corrected for their start, and m is bounded by
    Cauchy and Schwarz: m^2 <= (1 - a)^2 / (1 - b) * sum of (a^2 / b)^i * v, a = 0.9, b = 0.999.
    """
    a, b, total = 0.9, 0.999, 0.0
    for step, rate in enumerate(rates, 1):
        series = sum((a**2 / b) ** i for i in range(step))
        corrected = (1 - a) / (1 - a**step) * math.sqrt((1 - b**step) / (1 - b))
        total += rate * corrected * math.sqrt(series)
    return total


def trained_in(
    dtype: torch.dtype, model: nn.Module, digits: Data, method: str, **options: Any
) -> list[tuple[Tensor, Tensor]]:
    """Each threshold where it starts and where training ends, one epoch of 200 images."""
    few = [part.take(torch.arange(200)) for part in (digits.train, digits.validation, digits.test)]
    cast = Data("few", *(Split(part.images.to(dtype), part.labels) for part in few), 10)
    model = copy.deepcopy(model).to(dtype)
    start = thresholds(protect.protect(model, "ranger", cast, granularity="layer"))
    found = thresholds(
        protect.protect(
            model, method, cast, granularity="layer", epochs=1, tolerance=1.0, **options
        )
    )
    assert start.keys() == found.keys() == {"relu1", "relu2", "relu3", "relu4"}
    assert all(threshold.dtype == dtype for threshold in found.values())
    return [(start[name].double(), found[name].double()) for name in start]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_proact_moves_as_adamw_does_in_every_dtype(
    trained_cnn: nn.Module, digits: Data, dtype: torch.dtype
) -> None:
    """Adam's squares underflow in halves: without masters in float32 thresholds became infinite.

    Gradients differ with the dtype and the machine. The decay does not, and neither does the
    farthest that Adam can go with or against it.
    """
    decay, steps = 10.0, 4
    rates = [0.005 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    decayed = math.prod(1 - rate * decay for rate in rates)
    room = largest_moves(rates) + torch.finfo(dtype).eps
    assert decayed + room < 0.9
    for start, found in trained_in(dtype, trained_cnn, digits, "proact", decays=(decay,)):
        assert decayed - room <= found / start <= decayed + room


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fitact_moves_as_adam_does_in_every_dtype(
    trained_cnn: nn.Module, digits: Data, dtype: torch.dtype
) -> None:
    """A step is below half a unit in the last place of bfloat16 from 4 on, and must not be lost.

    The penalty outweighs the loss, so that every step goes down, and Adam bounds how far.
    """
    rate, batch = 0.01, 8
    most = largest_moves([rate] * (200 // batch))
    options = {"penalty": 1e3, "learning_rate": rate, "batch": batch}
    for start, found in trained_in(dtype, trained_cnn, digits, "fitact", **options):
        rounding = torch.finfo(dtype).eps * start
        assert start - most - rounding <= found < start


@pytest.mark.parametrize("method", METHODS)
def test_a_start_that_costs_too_much_is_refused(
    trained_cnn: nn.Module, digits: Data, method: str
) -> None:
    with pytest.raises(ValueError, match="tolerance of 0.015 allows: use a higher quantile"):
        protect.protect(trained_cnn, method, digits, quantile=0.2, **METHODS[method])
