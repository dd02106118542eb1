"""Do faults in a coded encoding leave what encoding, flipping and decoding all of it would?"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from coded_oracle import drawn_places, network, places_of, read, same_memory
from torch import nn

from conftest import bits_of, same_bits, slow
from proact import campaign
from proact.data import Data
from proact.encodings.coded_word import CodedWord
from proact.encodings.scaled_words import ScaledWord
from proact.faults import (
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    FaultSpace,
    Injector,
    Record,
    Replay,
    StuckAt,
    encode,
    inject,
)
from proact.faults.exposed_tensor import ExposedTensor
from proact.results.policy import Policy

ENCODINGS = [
    "float32+secded", "float32+bch2", "float32+bch3", "float32+parity", "float32+mset",
    "float32+cep", "float32+tmr", "float32+secded32", "float32+secded64",
    "float16+secded", "float16+bch2", "bfloat16+bch3", "bfloat16+secded64", "bfloat16+mset",
    "q15.16+bch2", "q15.16+secded32", "q7.8+bch3", "q7.8+tmr", "q3.4+secded", "q3.4+cep",
    "q3.4+secded64",
    "float32+bch2-mirrored", "bfloat16+secded-mirrored", "q15.16+bch3-mirrored",
    "float32+bch2+range", "q15.16+secded32+range", "bfloat16+secded64+range", "float32+cep+range",
]  # fmt: skip
#: Weights are integers, and all other tensors keep their own words: a code that fits both.
MIXED = ["int8+secded", "int8-tensor+bch2", "int8+secded64", "int8+parity", "int8+tmr"]


def encoded(encoding: str) -> nn.Module:
    return encode(network(), encoding)


def protected_bits(space: FaultSpace) -> int:
    """The bits of the scales of integers, which are stored, and are protected beside a code."""
    words = (each.word.uncoded for each in space)
    return sum(part.bits for w in words if isinstance(w, ScaledWord) for part in w.parts)


def assert_record(record: Record, outcomes: dict[tuple[str, int], str]) -> None:
    counts = Counter(outcomes.values())
    assert record.corrected == counts["corrected"]
    assert record.detected == counts["detected"]
    assert record.miscorrected == counts["miscorrected"]


@pytest.mark.parametrize("ber", [*slow(2e-3), 0.03, *slow(0.3), 0.7])
@pytest.mark.parametrize("encoding", [*ENCODINGS, *MIXED])
@pytest.mark.usefixtures("engine")
def test_independent_flips(encoding: str, ber: float) -> None:
    model = encoded(encoding)
    before, space = bits_of(model), FaultSpace(model, encoding)
    for trial in range(2):
        places = drawn_places(space, ber, 7, trial)
        expected = read(model, encoding, places)
        with inject(model, BitFlip(ber), encoding, 7, trial) as record:
            assert same_memory(model, expected.memory)
            assert record.flips == len(places)
            assert record.exposed_bits == space.bits == space.whole - protected_bits(space)
            assert_record(record, expected.outcomes)
            now = bits_of(model)
            different = {name for name in now if not torch.equal(now[name], before[name])}
            wrong = {
                name for (name, _), outcome in expected.outcomes.items() if outcome != "corrected"
            }
            assert different <= set(record.changed) <= wrong
        assert same_bits(before, model)


@pytest.mark.parametrize(
    ("encoding", "ber"), [("float32+bch2", 0.05), ("q15.16+secded32", 0.03), ("int8+secded", 0.02)]
)
def test_faults_list_the_flips_and_their_outcomes(encoding: str, ber: float) -> None:
    model = encoded(encoding)
    space = FaultSpace(model, encoding)
    places = drawn_places(space, ber, 3, 0)
    expected = read(model, encoding, places)
    clean = {name: tensor.clone().flatten() for name, tensor in model.state_dict().items()}
    with inject(model, BitFlip(ber), encoding, 3) as record:
        faulty = {name: tensor.clone().flatten() for name, tensor in model.state_dict().items()}
        inside = record.faults()
    faults = record.faults()
    assert faults.tobytes() == inside.tobytes()
    assert sorted(places_of(record)) == sorted(places)
    assert set(faults["outcome"].tolist()) == {"corrected", "detected", "miscorrected"}
    begins = {(exposed.name, e): begin_of(exposed, e) for exposed in space for e in range(200)}
    for name, element, _, value, after, outcome in faults.tolist():
        assert outcome == expected.outcomes[name, begins[name, element]]
        assert value == clean[name][element]
        np.testing.assert_equal(np.float32(after), faulty[name][element].numpy())
        if outcome == "corrected":
            assert after == value


def begin_of(exposed: ExposedTensor, element: int) -> int:
    """The first element of the codeword of an element."""
    word = exposed.word
    assert isinstance(word, CodedWord)
    size = word.fitted.code.words
    whole = exposed.elements - exposed.elements % size
    return element if word.fitted.rest and element >= whole else element - element % size


FAULTS: list[Fault | list[Fault]] = [
    ExactFlips(57),
    StuckAt(0, 0.1),
    StuckAt(1, 0.5),
    Burst(3, 0.05),
    Burst(5, 0.02, within="tensor"),
    BitFlip(0.05, where="4.*"),
    BitFlip(0.1, bits="check"),
    BitFlip(0.1, bits=(0, 1, 2, 30 // 5)),
    BitFlip({"4.weight": 0.1, "*": 0.01}),
    [BitFlip(0.02), BitFlip(0.03, where="4.*"), StuckAt(1, 0.1), ExactFlips(9)],
    [BitFlip(1.0), BitFlip(1.0)],
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize(
    "encoding", ["float32+bch2", "float16+secded64", "q15.16+secded32", "q3.4+secded"]
)
@pytest.mark.usefixtures("engine")
def test_other_faults(encoding: str, fault: Fault | list[Fault]) -> None:
    """The record says which bits flipped; memory holds what is then read."""
    model = encoded(encoding)
    before = bits_of(model)
    for trial in range(2):
        with inject(model, fault, encoding, 5, trial) as record:
            places = places_of(record)
            expected = read(model_of(before, model), encoding, places)
            assert record.flips == len(places)
            assert same_memory(model, expected.memory)
            if not isinstance(fault, BitFlip) or isinstance(fault.ber, float):
                assert_record(record, expected.outcomes)
        assert same_bits(before, model)


def model_of(before: dict[str, torch.Tensor], model: nn.Module) -> nn.Module:
    """The model as it was."""
    clean = network().to(next(model.parameters()).dtype)
    for name, tensor in clean.state_dict().items():
        tensor.view(-1).view(torch.uint8).copy_(before[name])
    return clean


@pytest.mark.parametrize("encoding", ["float32+bch2", "q15.16+secded32"])
def test_the_bits_of_each_fault_are_its_own(encoding: str) -> None:
    model = encoded(encoding)
    space = FaultSpace(model, encoding)
    with inject(model, ExactFlips(40), encoding, 1) as record:
        assert len(set(places_of(record))) == 40
    check = [exposed.word.mask("check") for exposed in space]
    with inject(model, BitFlip(0.2, bits="check"), encoding, 1) as record:
        masks = dict(zip((e.name for e in space), check, strict=True))
        assert all(masks[name] >> bit & 1 for name, _, bit in places_of(record))
        assert record.flips > 0
        wanted = FaultSpace(model, encoding, bits="check")
        assert sorted(places_of(record)) == sorted(drawn_places(wanted, 0.2, 1, 0))
    with inject(model, BitFlip(0.2, where="4.*"), encoding, 1) as record:
        assert {name for name, *_ in places_of(record)} == {"4.weight", "4.bias"}
        wanted = FaultSpace(model, encoding, where="4.*")
        assert sorted(places_of(record)) == sorted(drawn_places(wanted, 0.2, 1, 0))


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("encoding", ["float32+bch2", "q15.16+secded32", "q3.4+secded64"])
def test_stuck_bits_that_hold_their_value_do_not_flip(encoding: str, value: int) -> None:
    """The stuck bits are those that flips would hit; which of them flip shows the stored bits."""
    model = encoded(encoding)
    space = {exposed.name: exposed for exposed in FaultSpace(model, encoding)}
    drawn = sorted(drawn_places(space.values(), 0.2, 2, 0))
    flipped = {}
    for stuck_at in (0, 1):
        with inject(model, StuckAt(stuck_at, 0.2), encoding, 2) as record:
            flipped[stuck_at] = places_of(record)
    assert sorted(flipped[0] + flipped[1]) == drawn
    for name, element, bit in flipped[value]:
        exposed, word = space[name], space[name].word
        assert isinstance(word, CodedWord)
        if bit < word.format.bits and encoding.startswith("float32"):
            memory = exposed.tensor.view(-1).view(torch.int32)[element].item()
            assert memory >> bit & 1 == 1 - value
    everywhere = StuckAt(value, 1.0)
    with inject(model, [everywhere, everywhere], encoding) as record:
        assert record.flips == len(set(places_of(record))), "stuck once, a bit stays"


def test_faults_of_one_trial_are_decoded_together() -> None:
    """Two faults with one flip each in a word: too many for a code that corrects one."""
    model = encoded("float32+secded")
    before = bits_of(model)
    one = Replay((("gain", 0, 30),))  # type: ignore[arg-type]
    two = Replay((("gain", 0, 9),))  # type: ignore[arg-type]
    with inject(model, one, "float32+secded") as record:
        assert same_bits(before, model)
        assert (record.corrected, record.detected, record.changed) == (1, 0, [])
    with inject(model, [one, two], "float32+secded") as record:
        assert (record.corrected, record.detected) == (0, 1)
        assert record.changed == []  # replaced by the one value of the range
    with inject(model, [one, one], "float32+secded") as record:
        assert (record.flips, record.corrected, record.detected) == (2, 0, 0)


@pytest.mark.parametrize("encoding", ["float32+bch3", "q15.16+secded32", "float16+bch2"])
@pytest.mark.parametrize("fault", [BitFlip(0.05), [BitFlip(0.04), ExactFlips(20)]], ids=str)
def test_a_replay_gives_the_same_memory(encoding: str, fault: Fault | list[Fault]) -> None:
    model = encoded(encoding)
    before = bits_of(model)
    with inject(model, fault, encoding, 4) as record:
        faulty, replay = bits_of(model), record.replay()
        outcomes = (record.corrected, record.detected, record.miscorrected)
    with inject(model, replay, encoding, 9, 9) as again:
        assert same_bits(faulty, model)
        assert (again.corrected, again.detected, again.miscorrected) == outcomes
    assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ["float32+bch2", "q15.16+secded32"])
def test_an_injector_and_any_number_of_threads_make_the_same_faults(encoding: str) -> None:
    model = encoded(encoding)
    with inject(model, BitFlip(0.02), encoding, 6, 2) as record:
        faulty, rows = bits_of(model), record.faults().tolist()
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            injector = Injector(model, encoding)
            assert injector.exposed_bits(BitFlip(0.02)) == FaultSpace(model, encoding).bits
            with injector.trial(BitFlip(0.02), 6, 2) as record:
                assert same_bits(faulty, model)
                assert record.faults().tolist() == rows
    finally:
        torch.set_num_threads(threads)


def test_a_model_that_is_not_encoded_is_encoded_for_the_block() -> None:
    model, stored = network(), encoded("q15.16+bch2")
    before = bits_of(model)
    with (
        inject(stored, BitFlip(0.02), "q15.16+bch2", 1),
        inject(model, BitFlip(0.02), "q15.16+bch2", 1) as record,
    ):
        assert same_bits(bits_of(stored), model)
        assert record.detected > 0
    assert same_bits(before, model)
    with pytest.raises(RuntimeError, match="the block"), inject(model, BitFlip(0.3), "float32+cep"):
        raise RuntimeError("the block")
    assert same_bits(before, model)


@pytest.mark.parametrize("encoding", ["q15.16+secded32", "float32+secded"])
def test_trials_whose_errors_are_all_corrected_run_no_forward_pass(
    digits: Data, trained_cnn: nn.Module, encoding: str
) -> None:
    calls: list[int] = []
    model = nn.Sequential(trained_cnn)
    model.register_forward_hook(lambda *_: calls.append(1))

    def forwards(ber: float, trials: int) -> tuple[int, float]:
        calls.clear()
        result = campaign.run(
            {"m": model},
            digits,
            [BitFlip(ber)],
            encoding=encoding,
            trials=trials,
            policy=Policy(None, 64, False),
            executor=1,
        )
        return len(calls), result.cells[0].flips

    preparation, _ = forwards(1e-6, 1)
    calls_made, flips = forwards(1e-6, 100)
    assert calls_made == preparation
    assert flips > 0
    assert forwards(1e-3, 3)[0] > preparation
