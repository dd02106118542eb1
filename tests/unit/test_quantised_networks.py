"""Networks that store integers themselves: faults hit these, and nothing that only counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from encoding_oracle import (
    faulted,
    holding,
    tensor_of,
    weight_of,
    words_of,
)
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact import ProactError
from proact.faults import (
    BitFlip,
    Burst,
    ExactFlips,
    FaultSpace,
    Injector,
    StuckAt,
    Where,
    encode,
    inject,
)

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("name", ["native", "int8"])
@pytest.mark.usefixtures("engine")
def test_flips_of_stored_integers(name: str, dtype: torch.dtype) -> None:
    bits = 8 * dtype.itemsize
    top = 1 << (bits - 1)
    words = [0, 1, 5, top - 1, top, top + 1, 2 * top - 1, 0xA5 << (bits - 8)]
    model = holding(tensor_of(words, dtype).view(2, 4))
    assert words_of(weight_of(encode(model, name))) == words
    for bit in range(bits):
        with inject(model, BitFlip(1.0, bits=1 << bit), name) as record:
            assert words_of(weight_of(model)) == [word ^ 1 << bit for word in words]
            faults = record.faults()
        signed = 2 * top if dtype.is_signed else 0
        for column, flips in (("before", 0), ("after", 1 << bit)):
            now = [word ^ flips for word in words]
            assert faults[column].tolist() == [w - signed * (w >= top) for w in now]
        assert words_of(weight_of(model)) == words
    for fault in (StuckAt(1, 0.5), ExactFlips(9), Burst(3, 0.2), Burst(3, 0.2, within="tensor")):
        assert words_of(faulted(model, fault, name)) != words
        assert words_of(weight_of(model)) == words
    assert words_of(faulted(model, StuckAt(1, 1.0), name)) == [2 * top - 1] * len(words)


class Quantised(nn.Module):
    """A linear layer whose weights are int8 buffers, as a deployed network has them."""

    weight: Tensor
    scale: Tensor
    calls: Tensor
    pruned: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        weight = torch.randint(-128, 128, (4, 6), dtype=torch.int8, generator=generator)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", torch.tensor([0.1, 0.02, 0.3, 0.4]))
        self.register_buffer("zero", torch.tensor([3, -4, 0, 1], dtype=torch.int32))
        self.register_buffer("calls", torch.tensor([7, 8]))
        self.register_buffer("pruned", torch.tensor([True, False, True, False]))
        self.bias = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.4]))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.scale[:, None], self.bias)


@pytest.mark.parametrize("name", ["native", "int8"])
@pytest.mark.usefixtures("engine")
def test_a_quantised_network_is_hit_in_its_integers(name: str) -> None:
    model = Quantised()
    before, x = bits_of(model), torch.ones(1, 6)
    clean = model(x)
    space = {exposed.name: exposed.bits for exposed in FaultSpace(model, name)}
    assert space == {"bias": 4 * 32, "weight": 24 * 8, "scale": 4 * 32, "zero": 4 * 32}
    weight = model.weight.clone()
    with inject(model, BitFlip(0.3, where="weight"), name, seed=2) as record:
        faults, now = record.faults(), model.weight.clone()
        assert not torch.equal(model(x), clean)
    assert same_bits(before, model)
    rebuilt = weight.flatten().numpy().view(np.uint8)
    assert len(faults) == record.flips > 10
    for _, element, bit, *_ in faults:
        rebuilt[element] ^= 1 << bit
    assert rebuilt.tobytes() == now.numpy().tobytes()
    with inject(model, BitFlip(1.0), name):
        assert words_of(model.calls) == [7, 8]
        assert model.pruned.tolist() == [True, False, True, False]
        assert words_of(model.weight) == [255 - word for word in before["weight"].tolist()]
    assert same_bits(before, model)
    assert same_bits(before, encode(model, name))
    assert Injector(model, name).exposed_bits(BitFlip(0.1)) == sum(space.values())


@pytest.mark.parametrize("name", ["float32", "float16", "q15.16"])
def test_float_encodings_refuse_integers_unless_narrowed(name: str) -> None:
    model = Quantised()
    before = bits_of(model)
    for action in (
        lambda: FaultSpace(model, name),
        lambda: encode(model, name),
        lambda: inject(model, BitFlip(0.1), name).__enter__(),
        lambda: inject(model, BitFlip(0.1, where=("bias", "zero")), name).__enter__(),
    ):
        with pytest.raises(TypeError, match="(weight|zero) is torch.int(8|32): .*where"):
            action()
    assert same_bits(before, model)
    for where in ("scale", Where(kind="bias"), ("scale", "bias")):
        with inject(model, BitFlip(1.0, bits="sign", where=where), name) as record:
            assert set(record.counts()) <= {"scale", "bias"}
            assert record.flips == record.exposed_bits == (8 if isinstance(where, tuple) else 4)
        assert same_bits(before, model)


def test_the_scales_of_a_quantised_network_keep_their_bits() -> None:
    """Parameters are quantised; a buffer of one scale a row is no weight, whatever its name."""
    model = Quantised()
    model.register_buffer("weight_scale", model.scale.clone().view(4, 1))
    assert same_bits(bits_of(model), encode(model, "int8"))
    space = {exposed.name: exposed.word.bits for exposed in FaultSpace(model, "int8")}
    assert space["weight_scale"] == 32


def test_powers_of_two_are_stored_words() -> None:
    """e8m0 is an exponent with the bias 127; 255 is NaN."""
    if not hasattr(torch, "float8_e8m0fnu"):
        pytest.skip("this torch has no float8_e8m0fnu")
    model = nn.Module()
    words = torch.tensor([0, 1, 127, 130, 254], dtype=torch.uint8)
    model.register_buffer("scale", words.clone().view(torch.float8_e8m0fnu))
    (exposed,) = FaultSpace(model, "native")
    assert (exposed.word.name, exposed.bits, exposed.stored.kind) == ("e8m0", 40, "scale")
    with inject(model, BitFlip(1.0, bits=1), "native") as record:
        rows = record.faults()
        assert model.scale.view(torch.uint8).tolist() == [1, 0, 126, 131, 255]
    assert rows["before"].tolist() == [2.0**-127, 2.0**-126, 1.0, 8.0, 2.0**127]
    assert rows["after"].tolist()[:4] == [2.0**-126, 2.0**-127, 0.5, 16.0]
    assert np.isnan(rows["after"][4])
    assert torch.equal(model.scale.view(torch.uint8), words)


class Params4bit(nn.Parameter):
    """Stands for the parameter of bitsandbytes, with scales in its quantisation state."""

    __module__ = "bitsandbytes.nn.modules"
    quant_state: Any


class Linear4bit(nn.Module):
    """A layer of 4-bit integers, two in a byte, with a scale for each row."""

    def __init__(self) -> None:
        super().__init__()
        words = torch.arange(12, dtype=torch.uint8).view(4, 3)
        self.weight = Params4bit(words, requires_grad=False)
        self.weight.quant_state = SimpleNamespace(absmax=torch.ones(4), state2=None)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.absmax"] = self.weight.quant_state.absmax

    def forward(self, x: Tensor) -> Tensor:
        integers = torch.stack([self.weight >> 4, self.weight & 15], -1).view(4, 6).float() - 8
        return x @ (integers * self.weight.quant_state.absmax[:, None]).T


def test_scales_beside_a_parameter_are_stored_numbers() -> None:
    model = Linear4bit()
    scales = model.weight.quant_state.absmax
    space = {each.name: (each.stored.kind, each.bits) for each in FaultSpace(model, "native")}
    assert space == {"weight": ("weight", 12 * 8), "weight.absmax": ("scale", 4 * 32)}
    x, before = torch.ones(1, 6), scales.clone()
    clean = model(x)
    for where in ("weight", "weight.absmax"):
        with inject(model, ExactFlips(3, where=where), "native", seed=1):
            assert not torch.equal(model(x), clean)
        assert torch.equal(model(x), clean)
    with inject(model, BitFlip(1.0, bits="sign", where=Where(kind="scale")), "native"):
        assert torch.equal(model.weight.quant_state.absmax, -before)
    with (
        pytest.raises(ProactError, match=r"weight\.absmax was moved, converted or replaced"),
        inject(model, ExactFlips(1, where="weight.absmax"), "native"),
    ):
        model.weight.quant_state.absmax = before.clone()
