"""Do the two parts of a cut model compute what the whole model computes?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import slow
from proact import models
from proact.nn import HyReLU, find_sites, replace_sites
from proact.nn.folded_batch_norm import with_folded_batch_norm
from proact.nn.graph_cut import GraphCut, TracedModel


def clipped(model: nn.Module, images: Tensor) -> tuple[nn.Module, list[HyReLU]]:
    sites = find_sites(model, images[:1])
    network = replace_sites(model, {site: site.clip(1.0, "soft") for site in sites})
    network.eval().requires_grad_(False)
    clips = [network.get_submodule(site.name) for site in sites]
    assert all(isinstance(clip, HyReLU) for clip in clips)
    return network, clips  # type: ignore[return-value]


def settled(name: str) -> tuple[nn.Module, Tensor]:
    """Untrained, with statistics that are not those of a new batch norm."""
    torch.manual_seed(0)
    model, images = models.create(name, 10, 1), torch.randn(4, 1, 16, 16)
    model.train()
    with torch.no_grad():
        model(images)
    return model.eval(), images


def halves(cut: GraphCut | None, images: Tensor) -> Tensor:
    assert cut is not None
    output: Tensor = cut.after(*cut.before(images))
    return output


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        *slow("resnet50"),
        "vgg16-bn",
        *slow("mobilenetv2"),
        "alexnet",
    ],
)
def test_every_site_of_a_network_can_be_cut(name: str) -> None:
    model, images = settled(name)
    network, clips = clipped(model, images)
    with torch.no_grad():
        expected = network(images)
        traced = TracedModel(network, images[:2])
        for clip in clips:
            cut = traced.cut_at(clip)
            assert torch.equal(halves(cut, images), expected)
            folded = with_folded_batch_norm(cut.after)  # type: ignore[union-attr]
            found = folded(*cut.before(images))  # type: ignore[union-attr]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_change_of_a_threshold_shows_in_both_halves() -> None:
    model, images = settled("resnet20")
    network, clips = clipped(model, images)
    cut = TracedModel(network, images[:2]).cut_at(clips[9])
    assert cut is not None
    folded = with_folded_batch_norm(cut.after)
    before = halves(cut, images)
    for clip in clips:
        clip.threshold.data.fill_(0.2)
    after = halves(cut, images)
    assert not torch.equal(before, after)
    assert torch.equal(after, network(images))
    found = folded(*cut.before(images))
    torch.testing.assert_close(found, after, rtol=1e-3, atol=1e-3)


def test_folding_changes_nothing_of_the_network_itself() -> None:
    model, images = settled("resnet20")
    network, clips = clipped(model, images)
    before = copy.deepcopy(network.state_dict())
    cut = TracedModel(network, images[:2]).cut_at(clips[0])
    assert cut is not None
    folded = with_folded_batch_norm(cut.after)
    norms = [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    # The first one follows a convolution that lies before the cut.
    assert len(norms) == 0
    assert len([m for m in cut.after.modules() if isinstance(m, nn.BatchNorm2d)]) == 18
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())


def test_batch_norm_whose_convolution_is_read_elsewhere_is_not_folded() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.conv = nn.ReLU(), nn.Conv2d(1, 2, 1)
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(self.relu(x))
            return (x + 2 * self.norm(x)).mean((2, 3))

    model, images = Both(), torch.randn(4, 1, 3, 3)
    model(images)
    network, (clip,) = clipped(model.eval(), images)
    cut = TracedModel(network, images[:2]).cut_at(clip)
    assert cut is not None
    folded = with_folded_batch_norm(cut.after)
    assert any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert torch.equal(folded(*cut.before(images)), network(images))


class Functional(nn.Module):
    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.act, self.linear, self.run = nn.ReLU(), nn.Linear(6, 6), forward

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def by_value(net: Any, x: Tensor) -> Tensor:
    return net.linear(net.act(x)) if x.sum() > 0 else x


def by_batch(net: Any, x: Tensor) -> Tensor:
    return sum((net.linear(row) for row in net.act(x)), torch.zeros(6)) * torch.ones(len(x), 1)


def without_it(net: Any, x: Tensor) -> Tensor:
    net.act(x)
    return net.linear(x)


def across_the_batch(net: Any, x: Tensor) -> Tensor:
    return net.linear(net.act(x)) + x.mean(0)


@pytest.mark.parametrize("forward", [by_value, by_batch, without_it, across_the_batch])
def test_what_cannot_be_cut_faithfully_is_not_cut(forward: Callable[..., Any]) -> None:
    """It branches on values, loops over the batch, never reads the module, or computes something
    of all samples at once, which cannot be kept sample by sample."""
    network = Functional(forward).eval()
    network.act = HyReLU(1.0)  # type: ignore[assignment]
    assert TracedModel(network, torch.ones(2, 6)).cut_at(network.act) is None


def test_sizes_of_the_batch_do_not_stand_in_the_way() -> None:
    def with_sizes(net: Any, x: Tensor) -> Tensor:
        n, width = x.shape[0], x.size(1)
        y = net.act(x).view(n, width // 2, 2)
        out: Tensor = net.linear(y.reshape(x.shape[0], -1))
        return out

    network = Functional(with_sizes).eval()
    clip = HyReLU(1.0)
    network.act = clip  # type: ignore[assignment]
    x = torch.randn(5, 6)
    assert torch.equal(halves(TracedModel(network, x[:2]).cut_at(clip), x), network(x))


@pytest.mark.parametrize("hook", ["pre", "post"])
@pytest.mark.parametrize("layer", [1, 2])
def test_layers_with_hooks_are_not_folded(hook: str, layer: int) -> None:
    network = nn.Sequential(
        HyReLU(1.0), nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 2)
    ).eval()
    if hook == "pre":
        network[layer].register_forward_pre_hook(lambda _, args: (args[0] * 3,))
    else:
        network[layer].register_forward_hook(lambda _, args, output: output * 3)
    x = torch.randn(4, 1, 3, 3)
    cut = TracedModel(network, x[:2]).cut_at(network[0])
    assert cut is not None
    torch.testing.assert_close(with_folded_batch_norm(cut.after)(*cut.before(x)), network(x))


def test_a_module_that_runs_twice_is_no_place_to_cut() -> None:
    network = Functional(lambda net, x: net.act(net.linear(net.act(x)))).eval()
    network.act = HyReLU(1.0)  # type: ignore[assignment]
    assert TracedModel(network, torch.ones(2, 6)).cut_at(network.act) is None


def test_tensors_that_bypass_the_cut_module_are_carried_along() -> None:
    network = Functional(lambda net, x: net.linear(net.act(x)) + F.pad(x[:, 1:], (0, 1))).eval()
    clip = HyReLU(1.0)
    network.act = clip  # type: ignore[assignment]
    x = torch.randn(5, 6)
    cut = TracedModel(network, x[:2]).cut_at(clip)
    assert cut is not None
    assert len(cut.before(x)) == 2
    assert torch.equal(halves(cut, x), network(x))


class OfList(nn.Module):
    """Takes a list with one image for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.last = HyReLU(1.0), nn.Linear(3, 2)

    def forward(self, images: list[Tensor]) -> Tensor:
        out: Tensor = self.last(self.act(torch.stack([image.mean(1) for image in images])))
        return out


def test_a_list_of_samples_is_not_cut() -> None:
    network, images = OfList().eval(), [torch.randn(3, size) for size in (4, 5)]
    assert TracedModel(network, images).cut_at(network.act) is None


class Frozen(nn.Module):
    """As torchvision's FrozenBatchNorm2d: all numbers are buffers, one not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", 1 + 0.1 * torch.randn(6))
        self.register_buffer("running_var", 0.5 + torch.rand(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1)
        return x * scale


class BuffersAround(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (Frozen() for _ in range(3))
        self.act, self.linear = HyReLU(1.0), nn.Linear(6, 6)
        self.register_buffer("step", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        # The first number is computed before the cut and read behind it.
        step = (self.step * 2).item()
        x = self.act(self.norm1(x))
        output: Tensor = self.norm3(self.linear(self.norm2(x))) * step + self.step
        return output


@pytest.mark.parametrize(
    "name", ["norm1.weight", "norm1.running_var", "norm2.weight", "norm3.running_var", "step"]
)
def test_a_change_of_a_buffer_shows_in_both_halves(name: str) -> None:
    torch.manual_seed(0)
    network, x = BuffersAround().eval(), torch.randn(5, 6)
    cut = TracedModel(network, x[:2]).cut_at(network.act)
    assert cut is not None
    before = halves(cut, x)
    network.get_buffer(name).mul_(3)
    assert not torch.equal(before, halves(cut, x))
    assert torch.equal(halves(cut, x), network(x))


def as_number(net: Any, x: Tensor) -> Tensor:
    return net.act(x) * float(net.step)


def by_another_way(net: Any, x: Tensor) -> Tensor:
    return net.act(x) * (2 * net._buffers["step"])


def of_an_alias(net: Any, x: Tensor) -> Tensor:
    return net.act(x) @ net.alias.T


def in_a_try(net: Any, x: Tensor) -> Tensor:
    try:
        step = sum(net._buffers["table"].tolist())
    except Exception:
        step = 0.75
    return net.act(x) * step


def in_numpy(net: Any, x: Tensor) -> Tensor:
    return net.act(x) * net._buffers["table"].numpy().sum().item()


@pytest.mark.parametrize("forward", [as_number, by_another_way, of_an_alias, in_a_try, in_numpy])
def test_a_forward_that_fixes_stored_values_is_not_cut(forward: Callable[..., Any]) -> None:
    network = Functional(forward).eval()
    network.register_buffer("step", torch.tensor(0.5))
    network.register_buffer("table", torch.full((3,), 0.25))
    network.alias = network.linear.weight.data  # type: ignore[assignment]
    network.act = HyReLU(1.0)  # type: ignore[assignment]
    assert TracedModel(network, torch.ones(2, 6)).cut_at(network.act) is None


def test_shapes_of_buffers_and_empty_tensors_like_parameters_do_not_stand_in_the_way() -> None:
    def with_shapes(net: Any, x: Tensor) -> Tensor:
        zeros = next(net.parameters()).new_zeros(6, device=net.table.device)
        total = sum((row for row in net.table), zeros)
        for number in range(net.table.shape[0] - len(net.table) + net.table.size(1) - 5):
            total = total + net.table[number]
        out: Tensor = net.linear(net.act(x)) + total
        return out

    network, x = Functional(with_shapes).eval(), torch.randn(5, 6)
    network.register_buffer("table", torch.rand(3, 6))
    network.act = HyReLU(1.0)  # type: ignore[assignment]
    cut = TracedModel(network, x[:2]).cut_at(network.act)
    network.table.mul_(2)  # type: ignore[operator]
    assert torch.equal(halves(cut, x), network(x))
