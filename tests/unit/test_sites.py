"""Are activation sites found in execution order, and what is not a site refused by name?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import bits_of, same_bits
from proact.nn import HyReLU, find_sites, replace_sites


class Reversed(nn.Module):
    """Registers its activations in the opposite order of their execution."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.ReLU()
        self.first = nn.ReLU(inplace=True)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.b(self.first(self.a(x))))


class Functional(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(3, 3), nn.ReLU()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.function(self.linear(x)))  # type: ignore[operator]


def test_sites_come_in_execution_order_with_their_shapes() -> None:
    sites = find_sites(Reversed(), torch.zeros(2, 3))
    assert [(site.name, site.shape) for site in sites] == [("first", (4,)), ("second", (2,))]
    assert sites[0].neurons == 4


def test_nested_names() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 3))
    (site,) = find_sites(model, torch.zeros(1, 3))
    assert site.name == "0.1"
    replaced = replace_sites(model, {site: HyReLU(1.0)})
    assert isinstance(replaced.get_submodule("0.1"), HyReLU)
    assert isinstance(model.get_submodule("0.1"), nn.ReLU)


def test_other_clamps_are_no_sites() -> None:
    assert len(find_sites(Functional(lambda x: x.clamp(-1, 1)), torch.ones(1, 3))) == 1


def test_a_model_without_relu_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no ReLU"):
        find_sites(nn.Linear(3, 3), torch.zeros(1, 3))


def test_finding_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout())
    model.train()
    model[1].eval()
    before = bits_of(model)
    find_sites(model, torch.randn(4, 3))
    assert same_bits(before, model)
    assert [m.training for m in model] == [True, False, True, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(RuntimeError):
        find_sites(model, torch.randn(4, 99))
    assert [m.training for m in model] == [True, False, True, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class TwoNames(nn.Module):
    """Knows one activation under two names, and calls it under the second."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.layers = nn.Sequential(nn.Linear(3, 3), self.act, nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class SideEffect(nn.Module):
    """Drops what the in-place activation returns and uses what it changed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(3, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x)
        self.act(hidden)
        return hidden


class Leaky(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.3)


def test_a_module_with_two_names_is_replaced_under_both() -> None:
    model = TwoNames()
    (site,) = find_sites(model, torch.randn(1, 3))
    replaced = replace_sites(model, {site: HyReLU(0.0)})
    assert replaced.get_submodule("act") is replaced.get_submodule("layers.1")
    assert torch.equal(replaced(torch.randn(4, 3)), replaced(torch.randn(4, 3)))


def test_an_in_place_relu_whose_return_value_is_dropped_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="'act' cannot be replaced.*in-place change"):
        find_sites(SideEffect(), torch.randn(8, 3))


def test_a_subclass_with_another_forward_is_no_site() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Leaky(), nn.ReLU())
    assert [site.name for site in find_sites(model, torch.randn(2, 3))] == ["2"]
