"""Does a guard fit into injection: to the bit, in every encoding, its own bounds included?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from guard_models import IMAGES, run, small_network
from numpy.typing import NDArray
from torch import nn

from conftest import SignedMagnitude, bits_of, same_bits
from proact import ProactError
from proact.encodings import Encoding, UniformEncoding, Word
from proact.faults import (
    ActivationFlip,
    BitFlip,
    Burst,
    ExactFlips,
    FaultSpace,
    Injector,
    StuckAt,
    Where,
    encode,
    encoding_report,
    inject,
)
from proact.faults.fault import Fault
from proact.nn import add_weight_range, weight_range_of, without_weight_range
from proact.nn.tensor_inventory import StoredTensor

ENCODINGS: list[str | Encoding] = ["float32", "float16", "bfloat16", "native", "q15.16", "q2.5"]
ENCODINGS += ["int8", "int8-tensor", "int4", SignedMagnitude()]


def network(granularity: str = "tensor", action: str = "zero") -> nn.Sequential:
    model = small_network(4, 8, 30)
    names = [n for n, tensor in model.state_dict().items() if tensor.is_floating_point()]
    add_weight_range(model, names, granularity, action)
    return model


def guard_of(model: nn.Module) -> Any:
    return weight_range_of(model)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_an_encoded_network_needs_no_repair(encoding: str | Encoding, granularity: str) -> None:
    model = network(granularity)
    encoded = encode(model, encoding)
    run(encoded)
    assert guard_of(encoded).repairs == 0
    with inject(model, BitFlip(0.0), encoding):  # rounded for the block
        run(model)
    assert guard_of(model).repairs == 0
    run(model)
    assert guard_of(model).repairs == 0


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_encoding_twice_is_encoding_once(encoding: str | Encoding) -> None:
    encoded = encode(network("channel"), encoding)
    assert same_bits(bits_of(encoded), encode(encoded, encoding))
    Injector(encoded, encoding)
    assert encoding_report(encoded, encoding).largest_error == 0


def test_bounds_grow_with_what_they_hold_and_no_further() -> None:
    """int8 moves a channel's largest value up; a fault from before moves no bound."""
    model = network()
    weight, low = model.get_parameter("4.weight"), model.get_buffer("weight_range.low")
    index = guard_of(model).names.index("4.weight")
    with torch.no_grad():
        weight[3, 5] = -77.0
    encoded = encode(model, "int8")
    rounded = encoded.get_parameter("4.weight").clone()
    rounded[3] = 0.0  # the fault's channel: its scale is the fault's
    assert encoded.get_buffer("weight_range.low")[index] <= rounded.min()
    assert encoded.get_buffer("weight_range.low")[index] > low[index] - 0.01
    run(encoded)
    assert guard_of(encoded).last_repairs == {"4.weight": 1}


class Position(UniformEncoding):
    """Words of another grid at each position, so that a bound's is coarser than its value's."""

    name = "position"
    bits = 16
    fields = {"all": 0xFFFF}  # noqa: RUF012

    def _step(self, elements: NDArray[Any]) -> NDArray[np.float64]:
        return np.where(elements % np.uint64(2) == 0, 0.5, 1 / 1024)

    def words(self, values: NDArray[Any], elements: NDArray[Any]) -> NDArray[np.uint64]:
        steps = np.clip(np.floor(np.nan_to_num(values) / self._step(elements)), -32768, 32767)
        return steps.astype(np.int64).astype(np.uint64) & np.uint64(0xFFFF)

    def values(self, words: NDArray[np.uint64], elements: NDArray[Any]) -> NDArray[np.float64]:
        signed = words.astype(np.int64)
        steps = np.where(signed >= 32768, signed - 65536, signed)
        return steps * self._step(elements)


def test_bounds_that_an_encoding_would_cut_are_refused() -> None:
    model = network()
    before = bits_of(model)
    with pytest.raises(ValueError, match="weight_range.high is stored with less precision"):
        encode(model, Position())
    with (
        pytest.raises(ValueError, match="weight_range.high is stored with less precision"),
        inject(model, BitFlip(0.0), Position()),
    ):
        pass
    assert same_bits(before, model)

    class Mixed(Encoding):
        name = "position, bounds in float32"

        def word(self, stored: StoredTensor) -> Word:
            from proact.encodings import encoding_named

            kind: Encoding = encoding_named("float32") if stored.kind == "bound" else Position()
            return kind.word(stored)

    encoded = encode(model, Mixed())
    run(encoded)
    assert guard_of(encoded).repairs == 0


FAULTS: list[Fault] = [
    BitFlip(0.02),
    BitFlip(0.05, where="weight_range.*"),
    ExactFlips(50),
    StuckAt(1, 0.02),
    Burst(3, 0.02),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.usefixtures("engine")
def test_every_byte_comes_back_after_forwards(encoding: str | Encoding, fault: Fault) -> None:
    """Also where a faulted bound made the sweep write over healthy numbers."""
    model = network(action="saturate")
    before = bits_of(model)
    if encoding == "q2.5" and isinstance(fault, ExactFlips):
        fault = ExactFlips(50, bits="sign")
    for trial in range(3):
        with inject(model, fault, encoding, seed=3, trial=trial) as record:
            faulty = bits_of(model)
            run(model)
            assert same_bits(faulty, model)
            assert record.flips > 0
        assert same_bits(before, model)
    assert guard_of(model).repairs > 0


def test_healthy_numbers_come_back_from_a_faulted_bound() -> None:
    model = network()
    before = bits_of(model)
    seen: list[int] = []
    linear = model.get_submodule("6")
    assert isinstance(linear, nn.Linear)
    linear.register_forward_pre_hook(lambda *_: seen.append(int((linear.weight == 0).sum())))
    sign = BitFlip(1.0, where=Where(kind="bound"), bits="sign")
    with inject(model, sign) as record:  # low and high change their sides: nothing passes
        run(model)
        assert set(record.counts()) == {"weight_range.low", "weight_range.high"}
    assert seen == [24]
    assert same_bits(before, model)


def test_every_byte_comes_back_where_the_forward_raises() -> None:
    model = network()
    before = bits_of(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    model[3].register_forward_hook(fail)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        inject(model, BitFlip(0.2), "int8", seed=1),
    ):
        run(model)
    assert guard_of(model).repairs > 0
    assert same_bits(before, model)


def test_every_byte_comes_back_after_ctrl_c_in_a_forward() -> None:
    """No hook of the network is called then: the injection's end does it."""
    model = network()
    before = bits_of(model)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model[3].register_forward_hook(interrupt)
    faults = BitFlip(0.2, where=Where(kind="bound"))
    with pytest.raises(KeyboardInterrupt), inject(model, faults, "q15.16", seed=1):
        run(model)
    assert guard_of(model).repairs > 100
    assert same_bits(before, model)
    handle.remove()
    with inject(model, faults, seed=1):
        faulty = bits_of(model)
        run(model)
        assert same_bits(faulty, model)
    assert same_bits(before, model)


def test_nested_injections() -> None:
    model = network()
    before = bits_of(model)
    with inject(model, BitFlip(0.05), "q15.16", seed=1):
        run(model)
        middle = bits_of(model)
        with inject(model, BitFlip(0.05, where="weight_range.*"), "q15.16", seed=2):
            run(model)
        assert same_bits(middle, model)
        with inject(model, BitFlip(0.05), "bfloat16", seed=3):
            run(model)
        assert same_bits(middle, model)
    assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "q15.16", "int8", SignedMagnitude()])
def test_a_sweep_does_not_make_injection_prepare_again(encoding: str | Encoding) -> None:
    model = encode(network(), encoding)
    injector = Injector(model, encoding)
    prepared = injector._current_plan()
    for trial in range(3):
        with injector.trial(BitFlip(0.02), 0, trial):
            run(model)
        assert guard_of(model).repairs > 0
        assert injector._current_plan() is prepared


def test_bounds_are_a_kind_of_stored_tensor() -> None:
    model = network()
    names = {"weight_range.low", "weight_range.high"}
    everything = {exposed.name: exposed.stored for exposed in FaultSpace(model)}
    assert {name for name, stored in everything.items() if stored.kind == "bound"} == names
    assert {e.name for e in FaultSpace(model, where=Where(kind="bound"))} == names
    rest = FaultSpace(model, where=Where(exclude=Where(kind="bound")))
    assert {e.name for e in rest} == set(everything) - names
    assert {e.name for e in FaultSpace(without_weight_range(model))} == set(everything) - names
    assert {e.word.name for e in FaultSpace(model, "q15.16", Where(kind="bound"))} == {"q15.16"}
    assert {e.word.name for e in FaultSpace(model, "int8", Where(kind="bound"))} == {"float32"}


def test_two_protections_meet_the_same_faults() -> None:
    guarded = network()
    bare = without_weight_range(guarded)
    with inject(guarded, BitFlip(0.02), seed=5), inject(bare, BitFlip(0.02), seed=5):
        memory = bits_of(guarded)
        assert all(torch.equal(memory[name], bits) for name, bits in bits_of(bare).items())


@pytest.mark.parametrize("encoding", ["float32", "q15.16", "int8"])
def test_a_fault_out_of_range_changes_nothing_but_its_number(encoding: str) -> None:
    """What the network computes is what it would with the number at 0."""
    model = encode(network(), encoding)
    top = {"float32": 1 << 30, "q15.16": 1 << 29, "int8": 1 << 30}[encoding]
    fault = ExactFlips(1, where="6.bias", bits=top)
    with inject(model, fault, encoding) as record:
        element = int(record.faults()["element"][0])
        output = run(model)
    expected = without_weight_range(model)
    with torch.no_grad():
        expected.get_parameter("6.bias")[element] = 0.0
    assert torch.equal(output, run(expected))


def test_activation_faults_pass() -> None:
    """It guards memory, not arithmetic; and its own hand-on in a Sequential is no layer to hit."""
    guarded = network()
    bare = without_weight_range(guarded)
    clean = run(bare)
    fault = ActivationFlip(0.01, bits="exponent")
    outputs, flips = [], []
    for model in (guarded, bare):
        with inject(model, fault, seed=2) as record:
            outputs.append(run(model))
            flips.append(record.flips)
    assert torch.equal(outputs[0].nan_to_num(7), outputs[1].nan_to_num(7))
    assert not torch.equal(outputs[0], clean)
    assert flips[0] == flips[1] > 0
    assert guard_of(guarded).repairs == 0


def test_training_inside_is_refused() -> None:
    model = network().train()
    before = bits_of(model)
    with (
        pytest.raises(ProactError, match="cannot be trained"),
        inject(model, BitFlip(0.01), allow_training=True),
    ):
        model(IMAGES)
    assert same_bits(before, model)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
@pytest.mark.parametrize("make", [network, lambda: nn.Sequential(network(), nn.Identity())])
def test_a_guard_deeper_inside_works_alike(make: Callable[[], nn.Module], value: float) -> None:
    model = make()
    deep = model.get_submodule("0") if weight_range_of(model) is None else model
    encoded = encode(model, "int8")
    run(encoded)
    assert sum(guard_of(m).repairs for m in encoded.modules() if weight_range_of(m)) == 0
    before = bits_of(model)
    with inject(model, BitFlip(0.05, where="*weight_range.*"), seed=1):
        run(model)
    assert same_bits(before, model)
    clean = guard_of(deep).repairs
    with torch.no_grad():
        deep.get_parameter("6.bias")[0] = value
    run(model)
    assert guard_of(deep).repairs == clean + 1
