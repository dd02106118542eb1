"""Do bursts in interleaved memory hit the bits that lie side by side there?"""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from conftest import bits_of, same_bits
from proact.faults import Burst, FaultSpace, Record, encode, fault_from_json, inject
from proact.faults.exposed_tensor import ExposedMemory


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(33, 61), nn.Linear(61, 7, bias=False))


def places_in(memory: ExposedMemory, interleaving: int) -> dict[tuple[int, int], int]:
    """The place of each (word, bit) in memory, counted out group by group."""
    bits = [bit for bit in range(64) if memory.mask >> bit & 1]
    order = [
        (word, bit + memory.first_bit)
        for begin in range(0, memory.words, interleaving)
        for bit in bits
        for word in range(begin, min(begin + interleaving, memory.words))
    ]
    return {place: number for number, place in enumerate(order)}


def runs_of(record: Record, space: FaultSpace, interleaving: int) -> list[range]:
    """Maximal runs of flips that lie side by side in memory."""
    rows = record.faults()
    runs: list[range] = []
    for exposed in space:
        mine = rows[rows["tensor"] == exposed.name]
        flips = list(zip(mine["element"].tolist(), mine["bit"].tolist(), strict=True))
        assert len(set(flips)) == len(flips)
        for memory in exposed.memories:
            place = places_in(memory, interleaving)
            size = exposed.words_per_check if memory.first_bit else 1
            found = sorted(place[e // size, b] for e, b in flips if (e // size, b) in place)
            for number in found:
                if runs and runs[-1].stop == number:
                    runs[-1] = range(runs[-1].start, number + 1)
                else:
                    runs.append(range(number, number + 1))
            runs.append(range(0))  # ends the last run of this memory
    found_runs = [run for run in runs if len(run)]
    assert sum(map(len, found_runs)) == record.flips
    return found_runs


@pytest.mark.parametrize("interleaving", [2, 4, 7, 64, 5000])
@pytest.mark.parametrize("length", [1, 2, 8, 40])
@pytest.mark.parametrize(
    ("encoding", "bits"), [("float32", None), ("int8", None), ("float32", "exponent")]
)
def test_bursts_are_adjacent_in_memory(
    model: nn.Module, interleaving: int, length: int, encoding: str, bits: str | None
) -> None:
    space = FaultSpace(model, encoding, bits=bits)
    fault = Burst(length, 0.01, bits=bits, within="tensor", interleaving=interleaving)
    before, exact = bits_of(model), 0
    for trial in range(3):
        with inject(model, fault, encoding, 3, trial) as record:
            runs = runs_of(record, space, interleaving)
        assert same_bits(before, model)
        assert all(len(run) >= length for run in runs)
        exact += sum(len(run) == length for run in runs)
    assert exact > 0


@pytest.mark.parametrize("encoding", ["q15.16+secded32", "float16+secded64"])
def test_check_words_are_interleaved_among_themselves(model: nn.Module, encoding: str) -> None:
    stored = encode(model, encoding)
    space = FaultSpace(stored, encoding)
    fault = Burst(3, 0.02, within="tensor", interleaving=4)
    with inject(stored, fault, encoding, 2) as record:
        runs = runs_of(record, space, 4)
        bits = record.faults()["bit"]
    assert all(len(run) >= 3 for run in runs)
    assert bits.max() >= (32 if encoding.startswith("q") else 16)


@pytest.mark.parametrize("length", [2, 4, 8])
def test_a_burst_no_longer_than_the_interleaving_hits_no_word_twice(
    model: nn.Module, length: int
) -> None:
    """The tensor has 251 groups of 8 words and one of 5."""
    space = FaultSpace(model, where="0.weight")
    (memory,) = space[0].memories
    for interleaving, hits in ((8, 1), (1, length)):
        word_at = {number: word for (word, _), number in places_in(memory, interleaving).items()}
        seen: set[int] = set()
        for trial in range(5):
            fault = Burst(
                length, 1e-3, where="0.weight", within="tensor", interleaving=interleaving
            )
            with inject(model, fault, seed=1, trial=trial) as record:
                runs = runs_of(record, space, interleaving)
            for run in runs:
                words = [word_at[number] for number in run]
                if len(run) == length and words[-1] < 8 * 251:
                    seen.add(max(words.count(word) for word in words))
        assert max(seen) == hits


def test_without_interleaving_nothing_changes(model: nn.Module) -> None:
    """Neither the flips nor the description, which names cells of stored campaigns."""
    plain = Burst(5, 0.01, within="tensor")
    explicit = Burst(5, 0.01, within="tensor", interleaving=1)
    assert plain == explicit
    assert "interleaving" not in json.loads(plain.to_json())
    single = Burst(1, 0.01, within="tensor", interleaving=1)
    with inject(model, plain, seed=4) as record:
        faults = record.faults()
    with inject(model, explicit, seed=4) as record:
        assert (record.faults() == faults).all()
    assert fault_from_json(single.to_json()) == single


def test_a_round_trip_keeps_the_interleaving() -> None:
    fault = Burst(5, 0.01, within="tensor", interleaving=16)
    assert json.loads(fault.to_json())["interleaving"] == 16
    assert fault_from_json(fault.to_json()) == fault != Burst(5, 0.01, within="tensor")


@pytest.mark.parametrize("ber", [0.0, 1.0])
def test_rate_0_and_rate_1(model: nn.Module, ber: float) -> None:
    fault = Burst(4, ber, within="tensor", interleaving=3)
    with inject(model, fault) as record:
        assert record.flips == ber * FaultSpace(model).bits
