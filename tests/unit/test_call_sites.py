"""Is every call of a ReLU a site of its own, on networks that were not written for it?"""

from __future__ import annotations

import copy
import io
import math
import pickle
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.errors import ProactError
from proact.nn import HyReLU, Site, find_sites, observed, replace_sites


class Block(nn.Module):
    """As in common ResNets: one ReLU module, called twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv1(x)))
        y = self.conv2(y)
        y += x
        output: Tensor = self.relu(y)
        return output


class Net(nn.Module):
    """Blocks with reused modules, a functional ReLU at the end, and a branch on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        # fx cannot follow this, and does not have to: no activation is called here.
        y = self.stem(x) if float(x.sum()) > -1e9 else x
        output: Tensor = self.head(self.blocks(y))
        return output


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 3)
        self.note = "kept"

    def forward(self, x: Tensor, pooled: bool = True) -> Tensor:
        x = F.relu(x + 0.1, inplace=True)
        output: Tensor = self.output(x.mean((2, 3)).clamp(min=0))
        return output


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.act, self.function = nn.Linear(3, 3), nn.ReLU(), function

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.act(self.function(self.linear(x)) - 0.1)
        return output


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def clips(sites: list[Site], value: float = math.inf, mode: str = "zero") -> dict[Site, nn.Module]:
    return {site: HyReLU(value, mode, ceiling=site.ceiling) for site in sites}


def test_every_call_is_a_site_in_execution_order(net: Net, images: Tensor) -> None:
    sites = find_sites(net, images[:1])
    assert [(site.name, site.shape) for site in sites] == [
        ("blocks.0.relu_1", (4, 6, 6)),
        ("blocks.0.relu_2", (4, 6, 6)),
        ("blocks.1.relu_1", (4, 6, 6)),
        ("blocks.1.relu_2", (4, 6, 6)),
        ("head.relu_1", (4, 6, 6)),
        ("head.relu_2", (4,)),
    ]


def test_each_call_has_its_own_threshold(net: Net, images: Tensor) -> None:
    """Cutting one call to 0 gives what the same network does with that one result set to 0."""
    sites = find_sites(net, images[:1])
    by_hand = []
    for silent in range(len(sites)):
        calls = iter(range(len(sites)))

        def relu(x: Tensor, calls: object = calls, silent: int = silent) -> Tensor:
            return torch.zeros_like(x) if next(calls) == silent else torch.relu(x)  # type: ignore[call-overload]

        def block(b: Block, x: Tensor, relu: Callable[[Tensor], Tensor] = relu) -> Tensor:
            return relu(b.conv2(relu(b.norm(b.conv1(x)))) + x)

        with torch.no_grad():
            y = block(net.blocks[1], block(net.blocks[0], net.stem(images)))  # type: ignore[arg-type]
            by_hand.append(net.head.output(relu(relu(y + 0.1).mean((2, 3)))))
    for site, expected in zip(sites, by_hand, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(replace_sites(net, {site: HyReLU(0.0)})(images), expected)
    # Zeros stay zeros from the last site but one to the last.
    assert len({tuple(e.flatten().tolist()) for e in by_hand}) == len(sites) - 1


def test_clips_that_do_not_bite_change_no_bit(net: Net, images: Tensor) -> None:
    sites = find_sites(net, images[:1])
    highest: dict[Site, Tensor] = {}

    def observe(site: Site, output: Tensor) -> None:
        highest[site] = output.amax()

    with torch.no_grad():
        expected = net(images)
        assert torch.equal(observed(net, sites, observe)(images), expected)
        saturating = {site: HyReLU(highest[site], "saturate") for site in sites}
        assert torch.equal(replace_sites(net, saturating)(images), expected)


def test_a_rewritten_module_stays_what_it_is(net: Net, images: Tensor) -> None:
    sites = find_sites(net, images[:1])
    result = replace_sites(net, clips(sites))
    assert isinstance(result, Net)
    assert isinstance(result.blocks[0], Block)
    assert type(result.blocks[0]).__name__ == "Block"
    assert result.head.note == "kept"
    thresholds = {f"{site.name}.threshold" for site in sites}
    assert set(dict(result.named_parameters())) == set(dict(net.named_parameters())) | thresholds
    assert type(net.blocks[0]) is Block
    assert not any("threshold" in name for name, _ in net.named_parameters())


@pytest.mark.parametrize("times", [1, 2])
def test_copies_and_pickles_of_rewritten_networks(net: Net, images: Tensor, times: int) -> None:
    result: nn.Module = net
    for _ in range(times):  # protecting what is protected
        result = replace_sites(result, clips(find_sites(result, images[:1]), 0.5))
    with torch.no_grad():
        expected = result(images)
        assert not torch.equal(expected, net(images))
        twin = copy.deepcopy(result)
        assert torch.equal(twin(images), expected)
        twin.get_submodule("head.relu_2").threshold.zero_()  # type: ignore[operator, union-attr]
        assert torch.equal(result(images), expected)
        file = io.BytesIO()
        torch.save(result, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(images), expected)


def test_a_rewritten_network_is_exported_and_trains(net: Net, images: Tensor) -> None:
    result = replace_sites(net.blocks, clips(find_sites(net.blocks, torch.randn(1, 4, 6, 6)), 0.5))
    x = torch.randn(2, 4, 6, 6)
    exported = torch.export.export(result, (x,)).module()
    torch.testing.assert_close(exported(x), result(x))
    result.train()(x).sum().backward()
    assert all(p.grad is not None for n, p in result.named_parameters() if "conv" in n)


@pytest.mark.parametrize(
    ("function", "ceiling"),
    [
        (F.relu, math.inf),
        (lambda x: F.relu(x, inplace=True), math.inf),
        (torch.relu, math.inf),
        (torch.relu_, math.inf),
        (lambda x: x.relu_(), math.inf),
        (lambda x: x.relu(), math.inf),
        (lambda x: x.clamp(min=0), math.inf),
        (lambda x: x.clamp_min_(0), math.inf),
        (lambda x: torch.clamp(x, 0, 0.4), 0.4),
        (lambda x: F.threshold(x, 0, 0), math.inf),
        (F.relu6, 6.0),
        (lambda x: F.hardtanh(x, 0.0, 0.3), 0.3),
        (nn.ReLU6(), 6.0),
        (nn.Hardtanh(0.0, 0.3), 0.3),
        (nn.Threshold(0, 0), math.inf),
    ],
)
def test_functions_methods_and_ceilings(
    function: Callable[[Tensor], Tensor], ceiling: float
) -> None:
    torch.manual_seed(0)
    model, x = Calls(function), 20 * torch.randn(64, 3)
    first, second = find_sites(model, x)
    assert (first.ceiling, second.ceiling) == (ceiling, math.inf)
    with torch.no_grad():
        expected = model(x.clone())
        assert torch.equal(replace_sites(model, clips([first, second]))(x), expected)
        saturated = replace_sites(model, {first: HyReLU(0.2, "saturate", ceiling=ceiling)})
        torch.testing.assert_close(
            saturated(x), torch.relu(model.linear(x).clamp(0, min(0.2, ceiling)) - 0.1)
        )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp(-1, 1),
        lambda x: x.clamp(max=0),
        lambda x: F.threshold(x, 0.1, 0.0),
        F.hardtanh,
        F.leaky_relu,
        F.gelu,
        nn.Hardtanh(),
        nn.Threshold(0.0, 0.1),
    ],
)
def test_what_is_no_relu_is_no_site(function: Callable[[Tensor], Tensor]) -> None:
    assert [s.name for s in find_sites(Calls(function), torch.ones(1, 3))] == ["act"]


def test_one_module_in_several_places() -> None:
    torch.manual_seed(0)
    act = nn.ReLU()
    model = nn.Sequential(
        nn.Linear(3, 3), act, nn.Linear(3, 3), act, nn.Sequential(nn.Linear(3, 3), act)
    )
    x = torch.randn(6, 3)
    sites = find_sites(model, x)
    assert [site.name for site in sites] == ["1", "3", "4.1"]
    replaced = replace_sites(model, {site: HyReLU(float(i)) for i, site in enumerate(sites)})
    assert [float(m.threshold) for m in replaced.modules() if isinstance(m, HyReLU)] == [0, 1, 2]
    assert type(replaced) is nn.Sequential
    only_last = replace_sites(model, {sites[2]: HyReLU(0.0)})
    with torch.no_grad():
        torch.testing.assert_close(only_last[:4](x), model[:4](x))
        assert not only_last(x).any()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) if x.sum() > 0 else x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.cell(self.cell(x))
        return output


def test_calls_that_cannot_be_distinguished_are_named() -> None:
    with pytest.raises(
        ValueError, match="the activation calls in the forward of '0' cannot be distinguished"
    ):
        find_sites(nn.Sequential(Branching()), torch.ones(1, 3))
    with pytest.raises(ValueError, match="forward of Calls cannot be distinguished .descriptor"):
        find_sites(Calls(Tensor.relu_), torch.ones(1, 3))
    with pytest.raises(ValueError, match="the module 'cell' runs more than once"):
        find_sites(Recurrent(), torch.ones(1, 3))


def test_activations_that_are_not_finite_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Calls(F.relu))
    with pytest.raises(ValueError, match="activations at '1' are not finite"):
        find_sites(model, torch.full((1, 3), math.nan))


class Moody(nn.Module):
    """Another forward in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 0.1
        output: Tensor = self.b(F.relu(torch.tanh(self.a(x))))
        return output


class Growing(nn.Sequential):
    """Runs all its children, those too that are added to it."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = super().forward(F.relu(x))
        return output


@pytest.mark.parametrize("make", [Moody, lambda: Growing(nn.Linear(4, 4), nn.Linear(4, 2))])
def test_a_pickle_computes_what_the_network_computed(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(8, 4)
    result = replace_sites(model, clips(find_sites(model, x), 0.3))
    result.train()
    again = pickle.loads(pickle.dumps(result))
    with torch.no_grad():
        assert torch.equal(again.eval()(x), result.eval()(x))
        assert not torch.equal(result(x), model.eval()(x))


def test_a_ceiling_survives_protecting_twice() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU6(), nn.Linear(8, 3)), 10 * torch.randn(50, 4)
    result: nn.Module = model
    for _ in range(2):
        result = replace_sites(result, clips(find_sites(result, x)))
    with torch.no_grad():
        assert torch.equal(result(x), model(x))


class Careless(nn.Module):
    """Calls a ReLU beside something that a trace does not carry over."""

    def __init__(self, trouble: str) -> None:
        super().__init__()
        self.a, self.embedding, self.trouble = nn.Linear(3, 3), nn.Embedding(5, 3), trouble

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = torch.relu(self.a(x))
        if self.trouble == "attribute":
            self.features = h
        if self.trouble == "mask" and mask is not None:
            h = h * mask
        if self.trouble == "index":
            h = h + self.embedding((x * 10).long().clamp(0, 4)).sum(1)
        if self.trouble == "norm":
            h = h / (1 + self.a.weight.norm().clamp(min=0))
        if self.trouble == "tensor":
            h = (h - 1).clamp(min=torch.tensor(0.0))
        return h


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("attribute", "it assigns self.features"),
        ("tensor", "cannot be distinguished .2 calls ran and 1 were found"),
    ],
)
def test_forwards_that_do_more_than_compute_are_named(trouble: str, words: str) -> None:
    model = Careless(trouble).eval()
    before = sorted(vars(model))
    with pytest.raises(ValueError, match=words):
        find_sites(model, torch.randn(2, 3))
    assert not [name for name in vars(model) if name.startswith("_tensor")]
    assert sorted(name for name in vars(model) if name != "features") == before


def test_an_optional_tensor_keeps_the_value_of_the_watched_call() -> None:
    torch.manual_seed(0)
    model, x, mask = Careless("mask").eval(), torch.randn(4, 3), torch.rand(4, 3)
    (site,) = find_sites(model, x)
    clipped = replace_sites(model, clips([site]))
    assert torch.equal(clipped(x), model(x))
    with pytest.raises(ProactError, match="mask was None .* is a tensor now"):
        clipped(x, mask)
    (site,) = find_sites(model, (x, mask))
    clipped = replace_sites(model, clips([site]))
    assert torch.equal(clipped(x, mask), model(x, mask))
    assert not torch.equal(clipped(x, mask), model(x))


@pytest.mark.parametrize("trouble", ["index", "norm"])
def test_clamped_indices_and_single_numbers_are_no_activations(trouble: str) -> None:
    torch.manual_seed(0)
    model, x = Careless(trouble).eval(), torch.randn(4, 3)
    (site,) = find_sites(model, x)
    assert site.shape == (3,)
    with torch.no_grad():
        assert torch.equal(replace_sites(model, clips([site]))(x), model(x))


def test_a_forward_on_the_instance_is_named() -> None:
    model = Calls(F.relu)
    model.forward = types.MethodType(lambda self, x: F.relu(self.linear(x)), model)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="its forward was created at run time"):
        find_sites(model, torch.ones(1, 3))


def test_clip_is_clamp() -> None:
    first, _ = find_sites(Calls(lambda x: torch.clip(x, 0, 0.5)), torch.randn(3, 3))
    assert first.ceiling == 0.5
