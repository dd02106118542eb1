"""Does every byte come back, however blocks nest and whatever ends them?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import SignedMagnitude, bits_of, same_bits
from proact import ProactError
from proact.encodings import Encoding
from proact.faults import (
    ActivationFlip,
    BitFlip,
    Burst,
    ExactFlips,
    Injector,
    Replay,
    StuckAt,
    Where,
    inject,
    rounding_undo,
)
from proact.faults.fault import Fault
from proact.nn.batches import tensors_in

ENCODINGS: list[str | Encoding] = ["float32", "q15.16", "int8", "float16", SignedMagnitude()]
LOW = tuple(range(7))  # bits that every word has, and that make no NaN
#: An injection is refused while scales of the same words hold faults of another.
ELEMENTS = Where(exclude=Where(kind="scale"))


def kinds(where: str | Where) -> list[Fault]:
    return [
        BitFlip(0.2, bits=LOW, where=where),
        ExactFlips(30, bits=LOW, where=where),
        StuckAt(1, 0.3, bits=LOW, where=where),
        Burst(3, 0.2, bits=LOW, where=where, within="tensor"),
        Replay((("0.weight", 3, 0), ("0.weight", 3, 5), ("1.running_mean", 1, 6))),
    ]


KINDS = kinds("*")


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    net(torch.randn(5, 2, 3, 3))  # statistics that are no round numbers
    return net


@pytest.mark.parametrize("inner", ENCODINGS, ids=str)
@pytest.mark.parametrize("outer", ENCODINGS, ids=str)
def test_nested_injections(model: nn.Module, outer: str | Encoding, inner: str | Encoding) -> None:
    before = bits_of(model)
    for first in kinds(ELEMENTS):
        for second in kinds(ELEMENTS):
            with inject(model, first, outer, seed=1) as record:
                middle = bits_of(model)
                assert record.flips > 0
                with inject(model, second, inner, seed=2) as deep:
                    assert deep.flips > 0
                    assert not same_bits(middle, model)
                    with inject(model, first, outer, seed=3):
                        pass
                assert same_bits(middle, model)
            assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_a_nested_injection_of_no_flips_changes_nothing(
    model: nn.Module, encoding: str | Encoding
) -> None:
    """Also where a fault made a word that rounding never makes: int8's lowest."""
    bits = LOW if encoding == "float16" else None
    with inject(model, BitFlip(0.2, bits=bits, where=ELEMENTS), encoding, seed=1):
        middle = bits_of(model)
        with inject(model, BitFlip(0.0, bits=bits), encoding) as record:
            assert same_bits(middle, model)
        assert record.flips == 0


def test_blocks_that_end_in_another_order_than_they_began(model: nn.Module) -> None:
    """Two generators, each with an injection of its own, as a thread or a test may hold them."""
    before = bits_of(model)
    outer, inner = inject(model, BitFlip(0.2), seed=1), inject(model, BitFlip(0.2), seed=2)
    outer.__enter__()
    inner.__enter__()
    with suppress(ProactError):  # refused, or done right
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert same_bits(before, model)


def test_a_nested_injection_that_is_refused_leaves_the_outer_one(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[3].weight[0, 0] = 0.0
    before = bits_of(model)
    with inject(model, BitFlip(1.0, bits=("exponent", 0))):  # 0 becomes NaN
        middle = bits_of(model)
        with pytest.raises(ValueError, match="holds NaN"), inject(model, BitFlip(0.1), "q15.16"):
            pass
        with pytest.raises(ValueError, match="NaN or infinity"), inject(model, BitFlip(1), "int8"):
            pass
        assert same_bits(middle, model)
        with inject(model, BitFlip(0.3), "float16"):  # stores them
            assert not same_bits(middle, model)
        assert same_bits(middle, model)
    assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_exceptions_in_nested_blocks(
    model: nn.Module, encoding: str | Encoding, error: type[BaseException]
) -> None:
    before = bits_of(model)
    for fault in KINDS:
        with (
            pytest.raises(error, match="mine"),
            inject(model, fault, encoding),
            inject(model, fault, "q15.16", seed=1),
            Injector(model, "q15.16").trial(fault, seed=2),
        ):
            raise error("mine")
        assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_generators_closed_early(model: nn.Module, encoding: str | Encoding) -> None:
    def patterns(fault: Fault) -> Iterator[int]:
        with inject(model, fault, encoding) as outer, inject(model, fault, "int8") as inner:
            yield outer.flips
            yield inner.flips

    before = bits_of(model)
    for fault in kinds(ELEMENTS):
        running = patterns(fault)
        assert next(running) > 0
        assert not same_bits(before, model)
        running.close()
        assert same_bits(before, model)
        running = patterns(fault)
        next(running)
        del running
        assert same_bits(before, model)


MOVES: dict[str, Callable[[Any], object]] = {
    "double": lambda net: net.double(),
    "layer": lambda net: net[3].double(),
    "half": lambda net: net.half(),
    "replaced": lambda net: setattr(net[3], "weight", nn.Parameter(torch.zeros(4, 12))),
    "data": lambda net: setattr(net[3].weight, "data", torch.zeros(4, 12)),
    "none": lambda net: setattr(net[3], "bias", None),
    "popped": lambda net: net.pop(3),
    "parametrised": lambda net: nn.utils.parametrizations.weight_norm(net[3]),
}


@pytest.mark.parametrize("encoding", ["float32", "q15.16", "int8"])
@pytest.mark.parametrize("move", MOVES)
def test_parameters_moved_inside(model: nn.Module, move: str, encoding: str) -> None:
    memory = dict(model.state_dict())  # the tensors that it has before
    before = {name: tensor.clone() for name, tensor in memory.items()}
    with pytest.raises(ProactError, match="was moved"), inject(model, BitFlip(0.1), encoding):
        MOVES[move](model)
    assert all(torch.equal(memory[name], before[name]) for name in memory)


@pytest.mark.parametrize("fault", [BitFlip(0.1, where="0.*"), ActivationFlip(0.1)], ids=str)
@pytest.mark.parametrize("move", ["layer", "parametrised"])
def test_rounded_parameters_moved_inside(model: nn.Module, move: str, fault: Fault) -> None:
    """No fault hits them, but un-rounding does not reach them either."""
    twin = copy.deepcopy(model)
    with inject(twin, fault):  # float32 rounds nothing
        MOVES[move](twin)
    with pytest.raises(ProactError, match=r"3\.\w+ was moved"), inject(model, fault, "q15.16"):
        MOVES[move](model)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_models_of_inference_tensors(encoding: str | Encoding) -> None:
    torch.manual_seed(0)
    usual = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))
    torch.manual_seed(0)
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))
    assert model[0].weight.is_inference()
    before = bits_of(model)
    for fault in (BitFlip(0.1), Burst(2, 0.1), StuckAt(0, 0.1), ExactFlips(9)):
        for inside in (False, True, False):
            with torch.inference_mode(inside), inject(model, fault, encoding, seed=1):
                with inject(usual, fault, encoding, seed=1):
                    assert same_bits(bits_of(usual), model)
                with inject(model, BitFlip(0.1, bits=LOW), "float16"):
                    pass
            assert same_bits(before, model)


def test_casts_that_autocast_keeps_do_not_hide_faults_or_outlive_them() -> None:
    model, x = nn.Linear(8, 8, bias=False), torch.ones(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        clean = model(x)
        with inject(model, BitFlip(1.0, bits="sign")):
            torch.testing.assert_close(model(x), -clean)
        assert torch.equal(model(x), clean)


class NewMemory(TorchDispatchMode):
    """Notes the operators that allocate memory for tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def storages(tree: Any) -> set[int]:
            return {tensor.untyped_storage().data_ptr() for tensor in tensors_in(tree)}

        found = func(*args, **(kwargs or {}))
        if not storages(found) <= storages((args, kwargs or {})):
            self.operators.append(str(func))
        return found


@pytest.mark.parametrize("encoding", ["float32", "int8-tensor", "q15.16", "mxfp4", "float8_e4m3"])
def test_undoing_allocates_no_memory(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass may have left a GPU without any."""
    monkeypatch.setattr(rounding_undo, "_AT_ONCE", 1000)
    model = nn.Sequential(nn.Linear(90, 64), nn.Linear(64, 5))
    clean = bits_of(model)
    block = inject(model, BitFlip(1e-2), encoding, seed=1)
    assert block.__enter__().flips > 0
    with NewMemory() as new:
        block.__exit__(None, None, None)
    assert new.operators == []
    assert same_bits(clean, model)
