"""Do bits flip in the outputs and inputs of layers where the stream says, and nowhere else?"""

from __future__ import annotations

import copy
import hashlib
from math import sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from conftest import bits_of, same_bits
from proact.faults import ActivationFlip, BitFlip, Injector, Record, Where, inject
from proact.ops import _flip_reference as reference
from proact.ops import flip_bits_

WORD = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def words(tensor: Tensor) -> NDArray[np.uint64]:
    """The memory words in row-major order."""
    width = tensor.element_size()
    raw = tensor.detach().contiguous().view(WORD[width]).numpy().reshape(-1)
    return raw.view(f"u{width}").astype(np.uint64)


def drawn(
    name: str, elements: int, mask: int, ber: float, seed: int, trial: int
) -> NDArray[np.uint64]:
    """What the plain reference flips in each word."""
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    flips = np.zeros(elements, np.uint64)
    for element, bit in reference.flipped_bits(elements, mask, ber, seed, trial, stream):
        flips[element] ^= np.uint64(1 << bit)
    return flips


def faulty(clean: Tensor, name: str, ber: float, seed: int, trial: int) -> Tensor:
    """A copy of ``clean`` with the flips of its name."""
    width = clean.element_size()
    flips = drawn(name, clean.numel(), (1 << 8 * width) - 1, ber, seed, trial)
    raw = (words(clean) ^ flips).astype(f"u{width}").view(f"i{width}")
    return torch.from_numpy(raw).view(clean.dtype).view(clean.shape)


def flipped_bits(a: Tensor, b: Tensor) -> int:
    return int(np.unpackbits((words(a) ^ words(b)).view(np.uint8)).sum())


def batch(rows: int = 7, columns: int = 6) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def places(record: Record, name: str) -> list[tuple[int, int]]:
    """(element, bit) of the logged flips of one activation."""
    return [(int(f["element"]), int(f["bit"])) for f in record.faults() if f["tensor"] == name]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("at", ["output", "input"])
@pytest.mark.parametrize("where", ["0", "4", ("1", "2"), "*", Where(layer=nn.Linear)])
def test_flips_are_those_of_the_reference(
    mlp: nn.Sequential, dtype: torch.dtype, at: str, where: str | tuple[str, ...] | Where
) -> None:
    model, ber, seed, trial = mlp.to(dtype), 0.03, 11, 5
    taken = {"*": "01234", ("1", "2"): "12", Where(layer=nn.Linear): "024"}.get(where, where)
    expected = batch().to(dtype)
    with torch.no_grad():
        for index, layer in enumerate(model):
            for side in ("input", "output"):
                if side == at and str(index) in taken:
                    expected = faulty(expected, f"{index}:{at}[0]:0", ber, seed, trial)
                expected = layer(expected) if side == "input" else expected
        with inject(model, ActivationFlip(ber, where=where, at=at), seed=seed, trial=trial):
            got = model(batch().to(dtype))
        assert np.array_equal(words(got), words(expected))
        assert not np.array_equal(words(got), words(model(batch().to(dtype))))


@pytest.mark.parametrize("ber", [0.001, 0.2, 0.5, 0.97])
def test_flips_are_those_of_flip_bits(mlp: nn.Sequential, ber: float) -> None:
    with torch.no_grad():
        expected = mlp(batch(100))
        flips = flip_bits_(expected, ber, seed=3, trial=9, stream="4:output[0]:0")
        with inject(mlp, ActivationFlip(ber, where="4"), seed=3, trial=9) as record:
            got = mlp(batch(100))
    assert np.array_equal(words(got), words(expected))
    assert record.activation_flips == flips > 0


def test_every_call_in_a_block_has_its_own_pattern(mlp: nn.Sequential) -> None:
    fault = ActivationFlip(0.05, where="4")
    with torch.no_grad():
        clean = mlp(batch())
        for _ in range(2):  # the count begins anew with each block
            with inject(mlp, fault, seed=2, trial=1):
                passes = [mlp(batch()) for _ in range(3)]
            for call, got in enumerate(passes):
                expected = faulty(clean, f"4:output[0]:{call}", 0.05, 2, 1)
                assert np.array_equal(words(got), words(expected))
    assert len({words(got).tobytes() for got in passes}) == 3


def test_a_module_called_twice_has_two_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(x))

    model = Twice()
    with torch.no_grad(), inject(model, ActivationFlip(0.05), seed=1):
        got = model(batch())
    with torch.no_grad():
        first = faulty(model.fc(batch()), "fc:output[0]:0", 0.05, 1, 0)
        second = faulty(model.fc(first), "fc:output[0]:1", 0.05, 1, 0)
    assert np.array_equal(words(got), words(second))


@pytest.mark.parametrize("at", ["output", "input"])
def test_nothing_else_decides(mlp: nn.Sequential, at: str) -> None:
    """Other layers, other faults, values, the order of the batch and modes do not."""

    def flips(
        model: nn.Module = mlp,
        where: str | tuple[str, ...] = "2",
        x: Tensor | None = None,
        beside: tuple[BitFlip, ...] = (),
        grad: bool = False,
    ) -> list[tuple[int, int]]:
        fault = ActivationFlip(0.01, where=where, at=at)
        with (
            torch.set_grad_enabled(grad),
            inject(model, (*beside, fault), seed=4, trial=2, log_activations=True) as record,
        ):
            model(batch(300) if x is None else x)
        return places(record, f"2:{at}[0]:0")

    other = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Sigmoid())
    usual = flips()
    assert len(usual) > 100
    assert flips(where="*") == flips(where=("2", "4", "3")) == usual
    assert flips(x=batch(300).flip(0)) == flips(x=10 * batch(300)) == usual
    assert flips(beside=(BitFlip(0.1, bits="mantissa"),)) == usual
    assert flips(other) == flips(grad=True) == usual


@pytest.mark.parametrize("encoding", ["native", "q7.8", "int8", "float16"])
def test_threads_do_not_decide(encoding: str) -> None:
    model, seen = nn.Sequential(nn.Linear(6, 500)), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            fault = ActivationFlip(0.02, encoding=encoding)
            with torch.no_grad(), inject(model, fault, seed=1) as record:
                seen.append((words(model(batch(1000))).tobytes(), record.activation_flips))
    finally:
        torch.set_num_threads(1)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"trial": 1}])
def test_seed_and_trial_decide(mlp: nn.Sequential, changed: dict[str, int]) -> None:
    def flips(**pattern: int) -> list[tuple[int, int]]:
        with inject(mlp, ActivationFlip(0.05), log_activations=True, **pattern) as record:
            mlp(batch())
        return places(record, "0:output[0]:0")

    assert flips() == flips(seed=0, trial=0) != flips(**changed)
    with Injector(mlp).trial(ActivationFlip(0.05), log_activations=True, **changed) as record:
        mlp(batch())
    assert places(record, "0:output[0]:0") == flips(**changed)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("where", ["0", "1"])
def test_memory_format_does_not_decide(where: str, grad: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    x = torch.randn(2, 3, 9, 9)
    for format_ in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            mine = x.contiguous(memory_format=format_)
            expected = model[0](mine)
            assert expected.is_contiguous(memory_format=format_)
            for index in range(2):
                expected = model[1](expected) if index else expected
                if str(index) == where:
                    expected = faulty(expected, f"{where}:output[0]:0", 0.02, 0, 0)
        with torch.set_grad_enabled(grad), inject(model, ActivationFlip(0.02, where=where)):
            got = model(mine)
        assert got.is_contiguous(memory_format=format_)
        assert np.array_equal(words(got), words(expected))


@pytest.mark.parametrize("ber", [1e-4, 0.01, 0.3, 0.7])
@pytest.mark.parametrize("at", ["output", "input"])
def test_the_realised_rate_is_binomial(ber: float, at: str) -> None:
    model, x, seen, calls = nn.Sequential(nn.Linear(6, 500), nn.ReLU()), batch(40), [], 20
    model[1].register_forward_hook(lambda _, args, out: seen.append(args[0].clone()))
    with torch.no_grad():
        clean = model[0](x)
        name = ("0" if at == "output" else "1", at)
        with inject(model, ActivationFlip(ber, where=name[0], at=at), seed=8) as record:
            for _ in range(calls):
                model(x)
    bits = calls * clean.numel() * 32
    hit = sum(flipped_bits(y, clean) for y in seen)
    assert len(seen) == calls
    assert hit == record.activation_flips == record.flips
    assert record.activation_bits == bits
    assert record.stored_flips == record.exposed_bits == 0
    assert record.ber == hit / bits
    assert abs(hit - bits * ber) < 5 * sqrt(bits * ber * (1 - ber))


def test_rates_of_none_and_all(mlp: nn.Sequential) -> None:
    with torch.no_grad():
        clean = mlp(batch())
        with inject(mlp, ActivationFlip(0.0)) as record:
            assert np.array_equal(words(mlp(batch())), words(clean))
        assert (record.activation_flips, record.ber) == (0, 0.0)
        assert record.activation_bits == 7 * (8 + 8 + 5 + 5 + 3) * 32
        with inject(mlp, ActivationFlip(1.0, where="4")) as record:
            assert ((words(mlp(batch())) ^ words(clean)) == 0xFFFFFFFF).all()
        assert record.ber == 1.0


@pytest.mark.parametrize(
    ("bits", "mask"),
    [
        ("sign", 1 << 31),
        ("exponent", 0xFF << 23),
        ("mantissa", (1 << 23) - 1),
        (0b1010, 0b1010),
        ((31, 0), 1 << 31 | 1),
        (("sign", 3), 1 << 31 | 8),
    ],
)
def test_only_exposed_bits_flip(mlp: nn.Sequential, bits: object, mask: int) -> None:
    with torch.no_grad():
        clean = mlp(batch())
        for ber in (0.2, 1.0):
            with inject(mlp, ActivationFlip(ber, where="4", bits=bits), seed=6) as record:  # type: ignore[arg-type]
                got = mlp(batch())
            expected = drawn("4:output[0]:0", 21, mask, ber, 6, 0)
            assert np.array_equal(words(got) ^ words(clean), expected)
            assert record.activation_bits == 21 * mask.bit_count()


@pytest.mark.parametrize("ber", [0.02, 0.6])
def test_logged_rows_lead_from_the_clean_to_the_faulty_activation(
    mlp: nn.Sequential, ber: float
) -> None:
    fault = ActivationFlip(ber, where="4", bits=(*range(23), 31))  # finite, so that == compares
    with torch.no_grad():
        clean = mlp(batch())
        with inject(mlp, fault, seed=5, log_activations=True) as record:
            outputs = [mlp(batch()) for _ in range(2)]
        with inject(mlp, fault, seed=5) as silent:
            assert np.array_equal(words(mlp(batch())), words(outputs[0]))
            mlp(batch())
    rows = record.faults()
    assert len(rows) == record.activation_flips == silent.activation_flips > 0
    assert len(silent.faults()) == 0
    names = [f"4:output[0]:{call}" for call in range(2)]
    assert list(dict.fromkeys(rows["tensor"].tolist())) == names
    assert record.counts() == {n: int((rows["tensor"] == n).sum()) for n in record.counts()}
    for name, output in zip(names, outputs, strict=True):
        now = clean.numpy().reshape(-1).copy()
        for row in rows[rows["tensor"] == name]:
            element = int(row["element"])
            assert row["before"] == now[element]
            now.view(np.uint32)[element] ^= np.uint32(1 << int(row["bit"]))
            assert row["after"] == now[element]
        assert np.array_equal(now.view(np.uint32), words(output))


def test_beside_faults_in_parameters(mlp: nn.Sequential) -> None:
    before, stored, transient = bits_of(mlp), BitFlip(0.02, bits="mantissa"), ActivationFlip(0.05)
    with torch.no_grad(), inject(mlp, [transient, stored], seed=3, log_activations=True) as record:
        got = mlp(batch())
    assert same_bits(before, mlp)
    faulted = copy.deepcopy(mlp)
    with inject(faulted, stored, seed=3) as alone, torch.no_grad():
        with inject(faulted, transient, seed=3) as second:
            assert np.array_equal(words(faulted(batch())), words(got))
        assert record.stored_flips == alone.flips > 0
        assert record.activation_flips == second.activation_flips > 0
    assert record.exposed_bits == sum(p.numel() for p in mlp.parameters()) * 23
    assert record.flips == alone.flips + second.flips == len(record.faults())
    assert record.ber == record.flips / (record.exposed_bits + record.activation_bits)
    assert len(record.replay().faults) == alone.flips
