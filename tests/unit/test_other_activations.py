"""Are GELU, SiLU and Hardswish sites where they are asked for, and clipped where positive?"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact import protect
from proact.faults import ActivationFlip, BitFlip, inject
from proact.nn import ClippedActivation, find_sites, replace_sites

MODULES: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "silu-inplace": lambda: nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish,
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "silu-inplace": partial(F.silu, inplace=True),
    "hardswish": F.hardswish,
}


def kind_of(name: str) -> str:
    return name.partition("-")[0]


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.function, self.relu = function, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.a(x))
        x = self.relu(self.b(x))
        out: Tensor = self.c(self.function(x))
        return out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_sites_on_request(name: str) -> None:
    torch.manual_seed(0)
    net, x = Calls(FUNCTIONS[name]).eval(), torch.randn(5, 4)
    assert [s.name for s in find_sites(net, x)] == ["relu"]
    kind = kind_of(name)
    assert len(find_sites(net, x, kinds=(kind,))) == 2
    sites = find_sites(net, x, kinds=("relu", kind))
    assert [s.activation.kind for s in sites] == [kind, "relu", kind]
    is_tanh = name == "gelu-tanh"
    assert [s.activation.is_tanh for s in sites] == [is_tanh, False, is_tanh]
    loose = replace_sites(net, {site: site.clip(1e6) for site in sites})
    assert torch.equal(loose(x), net(x))
    assert torch.equal(pickle.loads(pickle.dumps(loose))(x), net(x))
    shut = replace_sites(net, {sites[2]: sites[2].clip(0.0)})
    assert not torch.equal(shut(x), net(x))


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_sites_on_request(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), MODULES[name](), nn.Linear(4, 4)).eval()
    x = torch.randn(5, 4)
    with pytest.raises(ValueError, match="has no ReLU"):
        find_sites(net, x)
    (site,) = find_sites(net, x, kinds=(kind_of(name),))
    assert site.name == "1"
    assert torch.equal(replace_sites(net, {site: site.clip(1e6, "saturate")})(x), net(x))
    # What was clipped is found again, and can be clipped anew.
    again = replace_sites(net, {site: site.clip(0.1)})
    (second,) = find_sites(again, x, kinds=(kind_of(name),))
    assert second.activation == site.activation
    assert torch.equal(replace_sites(again, {second: second.clip(1e6)})(x), net(x))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("mode", ["zero", "saturate", "soft"])
def test_a_clip_is_the_function_below_0_and_hyrelu_above(name: str, mode: str) -> None:
    function = MODULES[name]()
    x = torch.linspace(-6, 6, 10_001)[None]
    value = function(x.clone())
    found = ClippedActivation(MODULES[name](), 1.5, mode)(x.clone())
    expected = torch.empty_like(value)
    below, within = value <= 0, (value > 0) & (value <= 1.5)
    expected[below] = value[below]
    if mode == "soft":
        above = value > 0
        expected[above] = value[above] * torch.sigmoid(20 * (1.5 - value[above]))
        torch.testing.assert_close(found, expected)
    else:
        expected[within] = value[within]
        expected[value > 1.5] = 0.0 if mode == "zero" else 1.5
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_that_is_not_finite_passes(name: str) -> None:
    x = torch.tensor([[math.nan, math.inf, -math.inf, 3e38, -3e38]])
    for mode in ("zero", "saturate", "soft"):
        found = ClippedActivation(MODULES[name](), 2.0, mode)(x.clone())
        assert torch.isfinite(found).all()
        assert found.max() <= 2.0


@pytest.mark.parametrize("kinds", [(), ("tanh",), "relu", ("relu", "mish")])
def test_unknown_kinds_are_refused(kinds: Any, mlp: nn.Module) -> None:
    with pytest.raises(ValueError, match="relu, gelu, silu, hardswish"):
        find_sites(mlp, torch.randn(1, 6), kinds=kinds)
    data = (torch.randn(20, 6), torch.arange(20) % 3)
    with pytest.raises(ValueError, match="relu, gelu, silu, hardswish"):
        protect.protect(mlp, "ranger", data, activations=kinds)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ranger", {"mode": "zero"}),
        ("proact", {"epochs": 1, "decays": (0.1,)}),
        ("fitact", {"epochs": 1}),
        ("ft-clipact", {"patterns": 1}),
    ],
)
def test_methods_protect_them(method: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = Calls(F.gelu).eval()
    data = (torch.randn(200, 4), torch.arange(200) % 4)
    hardened = protect.protect(
        net, method, data, activations=("relu", "gelu"), **options,
        **({"tolerance": 1.0} if method in ("proact", "fitact") else {}),
    )  # fmt: skip
    clips = [type(m).__name__ for m in hardened.modules() if hasattr(m, "threshold")]
    assert sorted(clips) == ["ClippedActivation", "ClippedActivation", "HyReLU"]


def test_the_clip_is_one_layer_for_faults() -> None:
    """Names of faulted layers must not depend on the protection, or faults would not be paired."""
    net = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).eval()
    x = torch.randn(5, 4)
    (site,) = find_sites(net, x, kinds=("gelu",))
    clipped = replace_sites(net, {site: site.clip(1e6)})
    outputs = []
    for network in (net, clipped):
        with inject(network, ActivationFlip(0.01, where="1"), seed=3) as record, torch.no_grad():
            outputs.append(network(x))
        assert record.activation_flips > 0
    assert torch.equal(outputs[0], outputs[1])
    with inject(clipped, BitFlip(1.0, where="1.threshold")) as record:
        assert record.flips == 32


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_encoder_layers_that_torch_fuses_are_clipped(activation: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True, activation=activation(), dropout=0.0
    )
    net = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(40, 3)).eval()
    x, kinds = torch.randn(30, 5, 8), (activation.__name__.lower(),)  # type: ignore[attr-defined]
    shut = replace_sites(net, {site: site.clip(0.0) for site in find_sites(net, x, kinds)})
    hardened = protect.protect(net, "ranger", (x, torch.arange(30) % 3), activations=kinds)
    with torch.no_grad():
        torch.testing.assert_close(hardened(x), net(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(shut(x), net(x), atol=1e-3)
    with_autograd = shut(x)
    with torch.no_grad():
        torch.testing.assert_close(shut(x), with_autograd)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_zeros_at_padded_positions_are_told() -> None:
    """Fused kernels return 0 there, and a forward that sums over all positions depends on it."""

    class Sums(nn.Module):
        def __init__(self, has_mask: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.has_mask = nn.TransformerEncoder(layer, 2), has_mask

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padded = x[..., 0] > 0.5
            output = self.encoder(x, src_key_padding_mask=padded)
            kept = output * ~padded[..., None] if self.has_mask else output
            return kept.sum(1)

    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))
    x[..., 0] = (torch.arange(6) >= 4).float()  # fused kernels take padding at the end alone
    with pytest.warns(UserWarning, match=r"encoder \(nn\.TransformerEncoder\) return 0 at padded"):
        find_sites(Sums(False).eval(), x)
    assert len(find_sites(Sums(True).eval(), x)) == 2
