"""Are the tensors of torchao and bitsandbytes faulted in the words that they store?"""

from __future__ import annotations

import copy
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from proact import campaign
from proact.campaign.pickling import pickled
from proact.faults import BitFlip, FaultSpace, Where, inject

pytestmark = pytest.mark.filterwarnings("default")

#: The bits of stored weights, and of scales.
Bits = tuple[int, int]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def check(model: nn.Module, expected: Bits) -> None:
    """Flips of weights and of scales change the output and are undone; a campaign runs."""
    space = FaultSpace(model, "native")
    by_kind = {"weight": 0, "scale": 0}
    for exposed in space:
        if exposed.name.startswith("0.weight"):
            by_kind[exposed.stored.kind] += exposed.bits
    assert (by_kind["weight"], by_kind["scale"]) == expected
    x = torch.randn(16, 128)
    with torch.no_grad():
        clean = model(x)
        for kind in ("weight", "scale"):
            fault = BitFlip(0.02, where=Where(name="0.weight*", kind=kind))
            with inject(model, fault, "native") as record:
                assert record.flips > 0
                assert not torch.equal(model(x), clean)
            assert torch.equal(model(x), clean)
    labels = clean.argmax(1)
    result = campaign.run(
        {"m": model}, (x, labels), [BitFlip(1e-2)], encoding="native", trials=3, images_per_trial=8
    )
    assert result.cells


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ("Int8WeightOnlyConfig", (64 * 128 * 8, 64 * (32 + 8))),
        ("Float8WeightOnlyConfig", (64 * 128 * 8, 64 * 32)),
    ],
)
def test_torchao(config: str, bits: Bits) -> None:
    quantization = pytest.importorskip("torchao.quantization", exc_type=Exception)
    model = network()
    quantization.quantize_(model, getattr(quantization, config)())
    check(model, bits)


def test_nvfp4_of_torchao() -> None:
    formats = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor", exc_type=Exception)
    model = network()
    stored = formats.NVFP4Tensor.to_nvfp4(model[0].weight.detach())
    model[0].weight = nn.Parameter(stored, requires_grad=False)
    check(model, (64 * 128 * 4, 64 * 8 * 8))


def test_mx_of_torchao_has_e8m0_scales() -> None:
    formats = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor", exc_type=Exception)
    model = network()
    stored = formats.MXTensor.to_mx(model[0].weight.detach(), torch.float8_e4m3fn, 32)
    model[0].weight = nn.Parameter(stored, requires_grad=False)
    words = {each.name: each.word.name for each in FaultSpace(model, "native")}
    assert words["0.weight.qdata"] == "float8_e4m3"
    assert words["0.weight.scale"] == "e8m0"
    before = stored.dequantize()
    with inject(model, BitFlip(1.0, bits=1, where="0.weight.scale"), "native"):
        ratio = model[0].weight.dequantize() / before
        assert set(ratio[before != 0].tolist()) <= {0.5, 2.0}
    assert torch.equal(stored.dequantize(), before)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes(kind: str, nested: bool) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", exc_type=Exception)
    plain = network()
    layer: Any = bitsandbytes.nn.Linear4bit(
        128, 64, quant_type=kind, compute_dtype=torch.float32, compress_statistics=nested
    )
    layer.load_state_dict(copy.deepcopy(plain[0].state_dict()))
    model = nn.Sequential(layer.to("cpu"), *plain[1:])
    blocks = 64 * 128 // 64
    check(model, (64 * 128 * 4, blocks * 8 + 64 if nested else blocks * 32))


@pytest.mark.parametrize("nested", [False, True])
def test_pickles_keep_4_bit_parameters(nested: bool) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", exc_type=Exception)
    layer: Any = bitsandbytes.nn.Linear4bit(128, 64, compress_statistics=nested).to("cpu")
    pickle = cloudpickle.loads(pickled(nn.Sequential(layer)))
    assert type(pickle[0].weight) is type(layer.weight)
    assert pickle[0].weight.module is pickle[0]
    original = FaultSpace(nn.Sequential(layer), "native")
    for ours, theirs in zip(FaultSpace(pickle, "native"), original, strict=True):
        assert ours.name == theirs.name
        assert torch.equal(ours.tensor, theirs.tensor)
