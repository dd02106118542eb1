"""Are activations rounded, and hit, as their stored words say? Oracles in numpy's integers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proact.faults import ActivationFlip, inject, observe_activations
from proact.ops import _flip_reference as reference

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Emit(nn.Module):
    """A layer that puts out what it was given before, whatever it reads."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        return self.values.clone()


@dataclass(frozen=True)
class Stored:
    """An encoding by hand: so many bits, value to word, word to value."""

    bits: int
    store: Callable[[Floats], Integers]
    read: Callable[[Integers], Floats]


def to_bfloat16(values: Floats) -> Integers:
    words = values.view(np.uint32).astype(np.int64)
    return (words + 0x7FFF + (words >> 16 & 1)) >> 16


def signed(words: Integers, bits: int) -> Integers:
    sign = 1 << (bits - 1)
    return (words ^ sign) - sign


def scaled(scale: float, bits: int) -> Stored:
    lowest, highest, mask = -(1 << (bits - 1)), (1 << (bits - 1)) - 1, (1 << bits) - 1
    return Stored(
        bits,
        lambda v: (
            np.clip(np.rint(v.astype(np.float64) / scale), lowest, highest).astype(np.int64) & mask
        ),
        lambda w: (signed(w, bits) * scale).astype(np.float32),
    )


def scale_of(largest: float, bits: int) -> float:
    """The share of ``largest`` of one step, rounded up to the digits that an integer leaves."""
    mantissa, exponent = math.frexp(max(largest / ((1 << (bits - 1)) - 1), 2.0**-23))
    digits = 2 ** (24 - (bits - 1))
    return math.ldexp(math.ceil(mantissa * digits) / digits, exponent)


MEMORY = Stored(
    32,
    lambda v: v.view(np.uint32).astype(np.int64),
    lambda w: w.astype(np.uint32).view(np.float32),
)
STORED = {
    "native": MEMORY,
    "float32": MEMORY,
    "float16": Stored(
        16,
        lambda v: v.astype(np.float16).view(np.uint16).astype(np.int64),
        lambda w: w.astype(np.uint16).view(np.float16).astype(np.float32),
    ),
    "bfloat16": Stored(
        16, to_bfloat16, lambda w: (w << 16).astype(np.uint32).view(np.float32)
    ),
    "q7.8": scaled(2.0**-8, 16),
    "q3.4": scaled(2.0**-4, 8),
    "int8": scaled(scale_of(1234.5, 8), 8),
    "int4-tensor": scaled(scale_of(1234.5, 4), 4),
}  # fmt: skip
#: Ties, signed zeros, numbers out of range or below the smallest, and the largest of all.
HARD = [0.0, -0.0, 0.5, 0.001953125, -0.005859375, 127.998, -128.002, 200.0, -1234.5, 1234.5]
HARD += [1e-7, 6.1e-5, 1e-30, -1e-39, 65520.0 / 64, 1.00390625, -1.01171875, 8.03125, 611.0]


def values() -> Tensor:
    drawn = 8 * torch.randn(101, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.tensor(HARD), drawn]).view(10, 12)


def pattern(elements: int, bits: int, ber: float, seed: int, name: str) -> Integers:
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    flips = np.zeros(elements, np.int64)
    for element, bit in reference.flipped_bits(elements, (1 << bits) - 1, ber, seed, 0, stream):
        flips[element] ^= 1 << bit
    return flips


def memory(tensor: Tensor) -> NDArray[np.int32]:
    return tensor.detach().contiguous().view(torch.int32).numpy().reshape(-1)


def expected(clean: Tensor, stored: Stored, ber: float, seed: int, name: str) -> Floats:
    words = stored.store(clean.numpy().reshape(-1))
    return stored.read(words ^ pattern(len(words), stored.bits, ber, seed, name))


def emitted(layer: nn.Module, fault: ActivationFlip, seed: int = 0) -> tuple[Tensor, int, int]:
    model = nn.Sequential(layer)
    with torch.no_grad(), inject(model, fault, seed=seed) as record:
        return model(torch.zeros(1)), record.activation_flips, record.activation_bits


@pytest.mark.parametrize("encoding", STORED)
@pytest.mark.parametrize("ber", [0.0, 0.02, 1.0])
def test_words_are_rounded_and_hit(encoding: str, ber: float) -> None:
    stored = STORED[encoding]
    got, flips, bits = emitted(Emit(values()), ActivationFlip(ber, encoding=encoding), seed=7)
    oracle = expected(values(), stored, ber, 7, "0:output[0]:0")
    assert np.array_equal(memory(got), oracle.view(np.int32))
    assert bits == 120 * stored.bits
    drawn = pattern(120, stored.bits, ber, 7, "0:output[0]:0")
    assert flips == sum(int(word).bit_count() for word in drawn)
    if stored is not MEMORY:
        assert not np.array_equal(memory(got), memory(values()))


@pytest.mark.parametrize("encoding", STORED)
def test_the_log_and_the_input_side_mean_the_same(encoding: str) -> None:
    model, seen = nn.Sequential(Emit(values()), nn.ReLU()), []
    model[1].register_forward_hook(lambda _, args, out: seen.append(args[0].clone()))
    fault = ActivationFlip(0.02, encoding=encoding, where="1", at="input")
    with torch.no_grad(), inject(model, fault, seed=7, log_activations=True) as record:
        model(torch.zeros(1))
    stored, name = STORED[encoding], "1:input[0]:0"
    oracle = expected(values(), stored, 0.02, 7, name)
    assert np.array_equal(memory(seen[0]), oracle.view(np.int32))
    words = stored.store(values().numpy().reshape(-1))
    rows = record.faults()
    assert len(rows) == record.activation_flips > 0
    for row in rows:
        element = int(row["element"])
        assert row["tensor"] == name
        np.testing.assert_equal(row["before"], float(stored.read(words)[element]))
        words[element] ^= 1 << int(row["bit"])
        np.testing.assert_equal(row["after"], float(stored.read(words)[element]))
    np.testing.assert_array_equal(stored.read(words), oracle)


@pytest.mark.parametrize(
    ("encoding", "bits", "mask"),
    [
        ("float16", "exponent", 0x7C00),
        ("bfloat16", "sign", 0x8000),
        ("q7.8", "integer", 0x7F00),
        ("q7.8", ("fraction", 15), 0x80FF),
        ("int8", "integer", 0x7F),
        ("int8", 0b11, 0b11),
    ],
)
def test_only_exposed_bits_of_the_stored_word_flip(encoding: str, bits: object, mask: int) -> None:
    fault = ActivationFlip(1.0, encoding=encoding, bits=bits)  # type: ignore[arg-type]
    got, flips, exposed = emitted(Emit(values()), fault)
    stored = STORED[encoding]
    oracle = stored.read(stored.store(values().numpy().reshape(-1)) ^ mask)
    assert np.array_equal(memory(got), oracle.view(np.int32))
    assert flips == exposed == 120 * mask.bit_count()


@pytest.mark.parametrize("encoding", ["native", "float32", "float16", "bfloat16"])
def test_nan_and_infinity_survive(encoding: str) -> None:
    special = values()
    special[0, 1], special[3, 4], special[5, 6] = math.nan, math.inf, -math.inf
    clean, _, _ = emitted(Emit(special), ActivationFlip(0.0, encoding=encoding))
    for test in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(test(clean), test(special))
    sign, _, _ = emitted(Emit(special), ActivationFlip(1.0, encoding=encoding, bits="sign"))
    assert torch.isnan(sign[0, 1])
    assert (sign[3, 4].item(), sign[5, 6].item()) == (-math.inf, math.inf)


@pytest.mark.parametrize("encoding", ["int8", "q7.8"])
def test_integers_store_nan_as_0_and_infinity_as_the_largest(encoding: str) -> None:
    special = values()
    special[0, 0], special[9, 10], special[9, 11] = math.nan, math.inf, -math.inf
    got, _, _ = emitted(Emit(special), ActivationFlip(0.0, encoding=encoding))
    stored, finite = STORED[encoding], torch.nan_to_num(special, 0.0, 1e30, -1e30)
    oracle = stored.read(stored.store(finite.numpy().reshape(-1)))
    assert np.array_equal(memory(got), oracle.view(np.int32))  # the scale is of the finite ones
    for all_of in (0.0, math.nan):
        got, _, _ = emitted(Emit(torch.full((3,), all_of)), ActivationFlip(0.0, encoding=encoding))
        assert got.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("largest", [0.0, 3.7, 50.0, 1e6])
def test_the_observed_magnitude_is_the_scale(largest: float) -> None:
    fault = ActivationFlip(0.03, encoding="int8", largest={"0": largest, "elsewhere": 1.0})
    got, _, _ = emitted(Emit(values()), fault, seed=3)
    stored = scaled(scale_of(largest, 8), 8)
    oracle = expected(values(), stored, 0.03, 3, "0:output[0]:0")
    assert np.array_equal(memory(got), oracle.view(np.int32))


def test_observed_magnitudes_hold_for_every_call(mlp: nn.Sequential) -> None:
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    observed = observe_activations(mlp, x)
    stored = scaled(scale_of(observed["4"], 8), 8)
    fault = ActivationFlip(0.02, encoding="int8", where="4", largest=observed)
    with torch.no_grad():
        clean = [mlp(factor * x) for factor in (1, 100, 0.01)]
        with inject(mlp, fault, seed=1):
            got = [mlp(factor * x) for factor in (1, 100, 0.01)]
    for call in range(3):
        oracle = expected(clean[call], stored, 0.02, 1, f"4:output[0]:{call}")
        assert np.array_equal(memory(got[call]), oracle.view(np.int32))


@pytest.mark.parametrize("at", ["output", "input"])
def test_observations_are_the_largest_finite_magnitudes(mlp: nn.Sequential, at: str) -> None:
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        outputs = [x]
        for layer in mlp:
            outputs.append(layer(outputs[-1]))
    shown = outputs[1:] if at == "output" else outputs[:-1]
    largest = {str(i): value.abs().max().item() for i, value in enumerate(shown)}
    assert observe_activations(mlp, x, at=at) == largest
    some = observe_activations(mlp, x, at=at, where=("1", "4"))
    assert some == {name: largest[name] for name in ("1", "4")}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mlp.modules())
    special = Emit(torch.tensor([math.nan, -math.inf, math.inf, -2.5, 1.0]))
    assert observe_activations(nn.Sequential(special), x) == {"0": 2.5}


def test_observation_sees_every_call_and_keyword() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(input=self.fc(input=10 * x))

    model, x = Reads(), torch.ones(2, 6)
    with torch.no_grad():
        outputs = [model.fc(10 * x), model(x)]
    most = max(output.abs().max().item() for output in outputs)
    assert observe_activations(model, x) == {"fc": most}
    observed = observe_activations(model, x, at="input")
    assert observed == {"fc": max(10.0, outputs[0].abs().max().item())}
    with inject(model, ActivationFlip(0.1, at="input", encoding="int8", largest=observed)):
        model(x)


def test_what_was_observed_fits_a_fault_of_the_same_layers() -> None:
    """A layer that never runs has no magnitude, and needs none."""

    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model, x = Skips(), torch.ones(2, 6)
    observed = observe_activations(model, x)
    with inject(model, ActivationFlip(0.5, encoding="int8", largest=observed)) as record:
        model(x)
    assert record.activation_bits == 12 * 8


@pytest.mark.parametrize("largest", [math.nan, math.inf, -1.0])
def test_magnitudes_that_are_none_are_refused(largest: float) -> None:
    with pytest.raises(ValueError, match="largest"):
        ActivationFlip(0.1, encoding="int8", largest={"0": largest})


@pytest.mark.parametrize("encoding", ["float32", "int8", "q7.8"])
def test_activations_of_double_precision(encoding: str) -> None:
    stored = STORED[encoding]
    got, _, _ = emitted(Emit(values().double()), ActivationFlip(0.02, encoding=encoding), seed=2)
    assert got.dtype == torch.float64
    oracle = expected(values(), stored, 0.02, 2, "0:output[0]:0")
    with np.errstate(invalid="ignore"):  # NaN
        np.testing.assert_array_equal(got.numpy().reshape(-1), oracle.astype(np.float64))


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [("int8", torch.float16), ("q7.8", torch.bfloat16), ("float32", torch.float16),
     ("float16", torch.float64), ("float64", torch.float32)],
)  # fmt: skip
def test_activations_that_an_encoding_does_not_take_are_named(
    encoding: str, dtype: torch.dtype
) -> None:
    with pytest.raises(TypeError, match=f"{encoding} takes .* 0:output.* is {dtype}"):
        emitted(Emit(values().to(dtype)), ActivationFlip(0.1, encoding=encoding))
