"""Does a fault in activations hit every float that the selected layers compute, or say why not?"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proact import campaign
from proact.errors import ProactError
from proact.faults import ActivationFlip, BitFlip, Where, inject, observe_activations

mha = torch.backends.mha
#: torch warns when a process makes its first nested tensor.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class Tokens(nn.Module):
    """A text classifier whose answer depends on what padded tokens become: it averages all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.encoder(self.embed(ids), src_key_padding_mask=ids == 0).mean(1))


def ids_of(rows: int) -> Tensor:
    ids = torch.randint(1, 20, (rows, 6), generator=torch.Generator().manual_seed(1))
    for row in range(rows):
        ids[row, 2 + row % 4 :] = 0
    return ids


def bits_of_pass(net: nn.Module, x: Tensor, fault: ActivationFlip) -> int:
    with inject(net, fault) as record, torch.no_grad():
        net(x)
    return record.activation_bits


@pytest.mark.parametrize("where", ["*", "encoder.layers.1.linear1"])
def test_layers_of_a_transformer_are_hit_whether_or_not_its_kernels_are_fused(where: str) -> None:
    net, ids = Tokens().eval(), ids_of(12)
    fault = ActivationFlip(1e-3, where=where)
    fused = bits_of_pass(net, ids, fault)
    assert mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        assert fused == bits_of_pass(net, ids, fault)
        assert not mha.get_fastpath_enabled(), "an injection must put the user's switch back"
    finally:
        mha.set_fastpath_enabled(True)
    of_a_token = 16 if where != "*" else 8 + 2 * (16 + 3 * 8)
    assert fused == 32 * (12 * 6 * of_a_token + (12 * 3 if where == "*" else 0))


def test_the_switch_of_fused_kernels_returns_after_errors_and_nested_injections() -> None:
    net, other = Tokens().eval(), Tokens().eval()
    fault = ActivationFlip(0.0)
    with pytest.raises(IndexError), inject(net, fault):
        net(torch.full((1, 2), 99))
    assert mha.get_fastpath_enabled()
    first, second = inject(net, fault), inject(other, fault)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not mha.get_fastpath_enabled(), "the second injection is still active"
    second.__exit__(None, None, None)
    assert mha.get_fastpath_enabled()
    with inject(net, BitFlip(1e-4)):
        assert mha.get_fastpath_enabled()


def test_magnitudes_are_observed_in_all_layers_of_a_transformer() -> None:
    found = observe_activations(Tokens().eval(), ids_of(4))
    assert set(found) >= {"encoder.layers.0.linear1", "encoder.layers.1.norm2", "head"}
    missing = [name for name, top in found.items() if top == 0.0]
    assert missing == ["encoder.layers.0.self_attn.out_proj", "encoder.layers.1.self_attn.out_proj"]


@pytest.mark.parametrize("faults", [[ActivationFlip(0.0)], [BitFlip(1e-12), ActivationFlip(0.0)]])
def test_a_campaign_computes_clean_results_and_trials_alike(faults: list[Any]) -> None:
    net, ids = Tokens().eval(), ids_of(12)
    with torch.no_grad():
        fused = net(ids)
        mha.set_fastpath_enabled(False)
        apart = net(ids)
        mha.set_fastpath_enabled(True)
    assert (fused - apart).abs().max() > 1e-3, "the padded tokens must matter to this test"
    close = campaign.Metric(
        "close",
        # Each sample finds its own row among those without fused kernels.
        lambda out, targets, clean: (
            (out == clean).all(1) & ((out[:, None] - apart).abs() < 1e-5).all(2).any(1)
        ).float(),
        needs_targets=False,
    )
    options: dict[str, Any] = {"trials": 3, "images_per_trial": "all", "executor": 1}
    result = campaign.run({"net": net}, ids, faults, metric=close, **options)
    table = result.to_pandas()
    assert (table["clean"] == 1.0).all()
    assert (table["close"] == 1.0).all()


@dataclass
class Answer:
    scores: Tensor


class Own(OrderedDict[str, Any]):
    """A mapping that torch's pytree does not know."""


OUTPUTS = {
    "namespace": lambda h: SimpleNamespace(h=h),
    "dataclass": lambda h: (Answer(h), h),
    "mapping": lambda h: Own(h=h),
    "numpy": lambda h: h.detach().numpy(),
    "complex": lambda h: torch.complex(h, h),
    "sparse": lambda h: h.to_sparse(),
    "nested": lambda h: torch.nested.nested_tensor([h[0], h[1, :3]]),
    "nested objects": lambda h: SimpleNamespace(inner=SimpleNamespace(parts=[h])),
}


class Leaf(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.ones(6, 8))

    def forward(self, x: Tensor) -> Any:
        return OUTPUTS[self.kind](x @ self.weight.t())


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.leaf, self.head = Leaf(kind), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        self.leaf(x)
        return self.head(x)


X = torch.randn(12, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_layer_whose_floats_cannot_be_hit_is_refused_by_name(kind: str) -> None:
    net = Net(kind).eval()
    with pytest.raises(
        ProactError, match=r"the output of the layer 'leaf' (is|holds) an? .*exclude="
    ):
        bits_of_pass(net, X, ActivationFlip(0.0))
    spared = ActivationFlip(0.0, where=Where(exclude="leaf"))
    assert bits_of_pass(net, X, spared) == 12 * 3 * 32


@pytest.mark.parametrize(
    "output",
    [
        lambda h: (h > 0, (h > 0).long(), None, 3.0, "text"),
        lambda h: SimpleNamespace(found=h > 0, number=4),
        lambda h: h.argmax(1).numpy(),
    ],
)
def test_outputs_without_floats_are_left_alone(
    output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OUTPUTS, "integers", output)
    assert bits_of_pass(Net("integers").eval(), X, ActivationFlip(1.0)) == 12 * 3 * 32


def test_a_campaign_ends_with_the_name_of_the_layer() -> None:
    net, y = Net("namespace").eval(), torch.arange(12) % 3
    with pytest.raises(ProactError, match="'leaf' holds an object of the type SimpleNamespace"):
        campaign.run({"net": net}, (X, y), [ActivationFlip(0.5)], trials=4, executor=1)


class Sometimes(Net):
    """Its layer returns an object for one sample alone, which the checks may never see."""

    def forward(self, x: Tensor) -> Any:
        self.leaf.kind = "namespace" if len(x) == 12 else "plain"
        return super().forward(x)


def test_a_layer_that_is_refused_in_a_trial_is_no_detected_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(OUTPUTS, "plain", lambda h: h)
    net, y = Sometimes("plain").eval(), torch.arange(12) % 3
    fault = ActivationFlip(1e-3)
    with pytest.raises(ProactError, match="'leaf' holds an object"):
        campaign.run({"net": net}, (X, y), [fault], trials=4, executor=1, images_per_trial="all")


def test_numbers_of_numpy_scalars_are_floats_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUTS, "scalar", lambda h: np.float32(h.sum().item()))
    with pytest.raises(ProactError, match="'leaf' holds an object of the type float32"):
        bits_of_pass(Net("scalar").eval(), X, ActivationFlip(0.0))
