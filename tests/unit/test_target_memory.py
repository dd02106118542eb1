"""Do selectors take the tensors that they name, by name, layer and kind, and each memory once?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact.faults import (
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    FaultSpace,
    Injector,
    StuckAt,
    Where,
    inject,
)
from proact.nn import HyReLU


class ScaleNorm(nn.Module):
    """A normalisation that torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.gain = nn.Parameter(torch.ones(()))


class OwnLinear(nn.Linear):
    pass


class Clip(nn.Module):
    """A layer with a threshold of its own, a scale, and buffers of several types."""

    lowest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(2.0))
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("lowest", torch.zeros(2))
        self.register_buffer("weight_mask", torch.ones(2))
        self.register_buffer("codes", torch.zeros(3, dtype=torch.int8))
        self.register_buffer("index", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("flag", torch.zeros(3, dtype=torch.bool))


#: What each stored tensor of `everything` is.
KINDS = {
    "conv.weight": "weight",
    "conv.bias": "bias",
    "norms.batch.weight": "normalisation",
    "norms.batch.bias": "normalisation",
    "norms.layer.weight": "normalisation",
    "norms.layer.bias": "normalisation",
    "norms.group.weight": "normalisation",
    "norms.group.bias": "normalisation",
    "norms.rms.weight": "normalisation",
    "norms.own.weight": "normalisation",
    "norms.own.gain": "normalisation",
    "relu.threshold": "threshold",
    "clip.threshold": "threshold",
    "clip.scale": "other",
    "head.weight": "weight",
    "head.bias": "bias",
    "rnn.weight_ih_l0": "weight",
    "rnn.weight_hh_l0": "weight",
    "rnn.bias_ih_l0": "bias",
    "rnn.bias_hh_l0": "bias",
    "attend.in_proj_weight": "weight",
    "attend.in_proj_bias": "bias",
    "attend.out_proj.weight": "weight",
    "attend.out_proj.bias": "bias",
    "table.weight": "weight",
    "norms.batch.running_mean": "statistics",
    "norms.batch.running_var": "statistics",
    "clip.lowest": "other",
    "clip.weight_mask": "weight",
    "clip.codes": "other",
}
BUFFERS = [
    "norms.batch.running_mean",
    "norms.batch.running_var",
    "clip.lowest",
    "clip.weight_mask",
    "clip.codes",
]


@pytest.fixture
def everything() -> nn.ModuleDict:
    torch.manual_seed(6)
    norms = {
        "batch": nn.BatchNorm2d(3),
        "layer": nn.LayerNorm(4),
        "group": nn.GroupNorm(2, 4),
        "rms": nn.RMSNorm(4),
        "own": ScaleNorm(),
    }
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 3, 3),
            "norms": nn.ModuleDict(norms),
            "relu": HyReLU(1.5),
            "clip": Clip(),
            "head": OwnLinear(4, 2),
            "rnn": nn.LSTM(2, 2),
            "attend": nn.MultiheadAttention(4, 2),
            "table": nn.Embedding(5, 4),
        }
    )


def taken(model: nn.Module, where: Any) -> list[str]:
    return [exposed.name for exposed in FaultSpace(model, "native", where=where)]


def test_every_stored_tensor_has_its_kind(everything: nn.Module) -> None:
    space = FaultSpace(everything, "native")
    assert {exposed.name: exposed.stored.kind for exposed in space} == KINDS
    assert [exposed.name for exposed in space if exposed.stored.is_buffer] == BUFFERS


@pytest.mark.parametrize("kind", ["weight", "bias", "normalisation", "statistics", "other"])
def test_each_kind_is_selected_alone(everything: nn.Module, kind: str) -> None:
    assert taken(everything, Where(kind=kind)) == [n for n, k in KINDS.items() if k == kind]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("*", list(KINDS)),
        (Where(), list(KINDS)),
        ("conv.weight", ["conv.weight"]),
        ("conv.*", ["conv.weight", "conv.bias"]),
        ("c*.bias", ["conv.bias"]),
        ("rnn.weight_?h_l0", ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]),
        ("rnn.weight_[h]h*", ["rnn.weight_hh_l0"]),
        (("table.*", "conv.bias"), ["conv.bias", "table.weight"]),
        (Where(name="conv.*"), ["conv.weight", "conv.bias"]),
        (Where(name=["conv.b*", "head.b*"]), ["conv.bias", "head.bias"]),
        (Where(layer=nn.Conv2d), ["conv.weight", "conv.bias"]),
        (Where(layer="Conv2d"), ["conv.weight", "conv.bias"]),
        (Where(layer="_ConvNd"), ["conv.weight", "conv.bias"]),
        (Where(layer=nn.modules.conv._ConvNd), ["conv.weight", "conv.bias"]),
        (Where(layer=OwnLinear), ["head.weight", "head.bias"]),
        (
            Where(layer=nn.Linear),  # attention's last layer is one of its own kind
            ["head.weight", "head.bias", "attend.out_proj.weight", "attend.out_proj.bias"],
        ),
        (Where(layer=(nn.Embedding, "Conv2d"), kind="weight"), ["conv.weight", "table.weight"]),
        (Where(layer=nn.RNNBase, kind="bias"), ["rnn.bias_ih_l0", "rnn.bias_hh_l0"]),
        (
            Where(layer=nn.BatchNorm2d),
            [f"norms.batch.{t}" for t in ("weight", "bias", "running_mean", "running_var")],
        ),
        (Where(layer=ScaleNorm), ["norms.own.weight", "norms.own.gain"]),
        (Where(layer=Clip, kind="buffer"), BUFFERS[2:]),
        (Where(kind="threshold"), ["relu.threshold", "clip.threshold"]),
        (Where(kind="buffer"), BUFFERS),
        (Where(kind="buffer", exclude=Where(kind="statistics")), BUFFERS[2:]),
        (Where(kind=("statistics", "threshold"), name="c*"), ["clip.threshold"]),
        (Where(kind="weight", exclude="conv.*", layer=["Conv2d", "Embedding"]), ["table.weight"]),
        (
            Where(exclude=(Where(kind="buffer"), "norms.*", "[ract]*", "*bias")),
            ["head.weight"],
        ),
        (
            ("conv.weight", Where(kind="threshold", exclude=Where(layer=HyReLU))),
            ["conv.weight", "clip.threshold"],
        ),
        (("conv.*", "conv.weight"), ["conv.weight", "conv.bias"]),
    ],
    ids=str,
)
def test_selectors_take_what_they_name(everything: nn.Module, where: Any, names: list[str]) -> None:
    assert taken(everything, where) == names
    with inject(everything, BitFlip(1.0, where=where), "native") as record:
        assert set(record.counts()) == set(names)


def test_an_excluded_tensor_keeps_every_byte(everything: nn.Module) -> None:
    before = bits_of(everything)
    fault = BitFlip(1.0, where=Where(exclude=("norms.*", Where(kind="buffer"))))
    with inject(everything, fault, "native"):
        after = bits_of(everything)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in KINDS if not n.startswith("norms.") and n not in BUFFERS}


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("convv.weight", "'convv.weight' matches no stored tensor: .*'conv.weight'.* and 27 more"),
        ("CONV.*", "'CONV.*matches no stored tensor: there are '"),
        ("clip.index", "'clip.index' matches no stored tensor"),
        (Where(layer=nn.Conv3d), "Conv3d.* matches no stored tensor: .*BatchNorm2d, .*Conv2d"),
        (Where(layer=nn.Conv2d, kind="statistics"), "matches no stored tensor: .*kinds bias, "),
        (("x*", "y*"), "'x.*y.*matches no stored tensor: there are "),
        (Where(exclude="*"), "exclude=.*matches no stored tensor: there are "),
    ],
    ids=str,
)
def test_what_matches_nothing_says_what_exists(
    everything: nn.Module, where: Any, words: str
) -> None:
    before = bits_of(everything)
    with pytest.raises(ValueError, match=words):
        FaultSpace(everything, "native", where=where)
    for fault in (BitFlip(0.5, where=where), ExactFlips(1, where=where)):
        with pytest.raises(ValueError, match=words), inject(everything, fault, "native"):
            pass
        with pytest.raises(ValueError, match=words):
            Injector(everything, "native").exposed_bits(fault)
    assert same_bits(before, everything)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "weights"}, "kind is one of weight, bias.*buffer; got 'weights'"),
        ({"kind": ("weight", "x")}, "got 'x'"),
        ({"kind": 3}, "kind must be a string.*3"),
        ({"kind": ()}, r"kind must be a string.*\(\)"),
        ({"layer": 3}, "layer must be a type, a string.*3"),
        ({"layer": nn.ReLU()}, "layer must be a type, a string.*ReLU"),
        ({"name": None}, "name must be a string.*None"),
        ({"name": ("a", 3)}, "name must be a string.*3"),
        ({"exclude": 3}, "where must be a pattern.*3"),
        ({"exclude": ()}, "where must be a pattern"),
    ],
    ids=str,
)
def test_bad_selectors_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        Where(**options)


@pytest.fixture
def tied() -> nn.ModuleDict:
    """A language model's table of words and its last layer, of one memory."""
    torch.manual_seed(7)
    model = nn.ModuleDict({"table": nn.Embedding(6, 4), "last": nn.Linear(4, 6)})
    model["last"].weight = model["table"].weight
    return model


@pytest.mark.parametrize("where", ["table.weight", "last.weight", "last.w*", ("table.*", "last.*")])
def test_tied_parameters_are_hit_once_by_either_name(tied: nn.ModuleDict, where: Any) -> None:
    space = FaultSpace(tied, where=where)
    assert space[0].stored.names == ("table.weight", "last.weight")
    old = tied["table"].weight.detach().view(torch.int32).clone()
    fault = BitFlip(1.0, where=Where(name=where, exclude="last.bias"))
    with inject(tied, fault) as record:
        assert record.flips == 32 * 24
        assert tied["table"].weight is tied["last"].weight
        assert torch.equal(tied["last"].weight.view(torch.int32), ~old)
    assert torch.equal(tied["table"].weight.view(torch.int32), old)


def test_tied_parameters_get_the_same_faults_under_every_selection(tied: nn.ModuleDict) -> None:
    patterns = []
    for where in ("table.*", "last.weight", "*"):
        with inject(tied, BitFlip(0.1, where=where), seed=8) as record:
            rows = record.faults()
            mine = rows[rows["tensor"] == "table.weight"]
            patterns.append(mine[["element", "bit"]].tolist())
    assert patterns[0] == patterns[1] == patterns[2] != []
    for excluded in ("table.weight", "last.weight"):
        assert taken(tied, Where(exclude=excluded)) == ["last.bias"]


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "q15.16", "int8", "native"])
@pytest.mark.parametrize("threshold", ["relu.threshold", "clip.threshold"])
def test_single_numbers_are_hit(everything: nn.ModuleDict, encoding: str, threshold: str) -> None:
    model = nn.ModuleDict({name: everything[name] for name in ("relu", "clip")})
    model["clip"].codes = None  # float encodings take no integers
    (exposed,) = FaultSpace(model, encoding, where=threshold)
    bits = 16 if encoding == "bfloat16" else 32
    assert (exposed.tensor.dim(), exposed.elements, exposed.bits) == (0, 1, bits)
    before = bits_of(model)
    faults: list[tuple[Fault, int]] = [
        (BitFlip(1.0, where=threshold), bits),
        (BitFlip(1.0, where=threshold, bits="sign"), 1),
        (ExactFlips(3, where=threshold), 3),
        (Burst(bits, 1.0, where=threshold), bits),
        (Burst(bits, 1.0, where=threshold, within="tensor"), bits),
        (StuckAt(1, 1.0, where=threshold, bits="sign"), 1),
    ]
    for fault, flips in faults:
        with inject(model, fault, encoding) as record:
            assert record.counts() == {threshold: flips}
            assert not torch.equal(bits_of(model)[threshold], before[threshold])
        assert same_bits(before, model)
