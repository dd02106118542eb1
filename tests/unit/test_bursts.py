"""Do bursts hit adjacent exposed bits, and stay where they say?"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
import torch
from torch import nn

from conftest import bits_of, same_bits
from proact.faults import Burst, FaultSpace, Record, inject

GAPPED = 0b1101_0110_1000_0001_0000_1111_0011_1010


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 8, bias=False))


def ranks_of(record: Record, space: FaultSpace) -> dict[str, list[int]]:
    """The flipped bits of each tensor, counted through its exposed bits, in order."""
    rows, found = record.faults(), {}
    assert len(rows) == record.flips
    for exposed in space:
        order = [bit for bit in range(64) if exposed.mask >> bit & 1]
        mine = rows[rows["tensor"] == exposed.name]
        found[exposed.name] = sorted(
            int(e) * len(order) + order.index(int(b))
            for e, b in zip(mine["element"], mine["bit"], strict=True)
        )
        assert len(set(found[exposed.name])) == len(mine), "a bit flipped twice"
    return found


def runs(ranks: list[int]) -> list[range]:
    """Maximal runs of adjacent numbers."""
    grouped = groupby(enumerate(ranks), lambda pair: pair[1] - pair[0])
    listed = [[rank for _, rank in group] for _, group in grouped]
    return [range(run[0], run[-1] + 1) for run in listed]


def by_word(ranks: list[int], width: int) -> list[list[int]]:
    """The ranks of each word that was hit."""
    return [list(group) for _, group in groupby(ranks, lambda rank: rank // width)]


CASES: list[tuple[Any, str, int]] = [
    (None, "float32", 1),
    (None, "float32", 2),
    (None, "float32", 5),
    (None, "float32", 31),
    (None, "float32", 32),
    ("exponent", "float32", 3),
    ("exponent", "float32", 8),
    (GAPPED, "float32", 4),
    ((0, 31), "float32", 2),
    (None, "bfloat16", 3),
    (None, "q15.16", 4),
    ("fraction", "q7.8", 3),
    (None, "int8", 3),
    (None, "int8", 8),
]


@pytest.mark.parametrize(("bits", "encoding", "length"), CASES)
def test_at_low_rates_each_hit_word_has_one_burst(
    model: nn.Module, bits: Any, encoding: str, length: int
) -> None:
    """Of 2,624 words some dozen are hit; fixed trials in which no two bursts share a word."""
    space = FaultSpace(model, encoding, bits=bits)
    ber = 12 * length / space.bits
    hit, trials = 0, 0
    for trial in range(10):
        with inject(model, Burst(length, ber, bits=bits), encoding, 1, trial) as record:
            ranks = ranks_of(record, space)
        words = [
            word
            for exposed in space
            for word in by_word(ranks[exposed.name], exposed.mask.bit_count())
        ]
        if record.flips != length * len(words):
            continue  # two bursts in a word: about one trial in thirty
        trials += 1
        hit += len(words)
        for word in words:
            assert word == list(range(word[0], word[0] + length))
    assert trials >= 7
    assert hit > 50


@pytest.mark.parametrize("ber", [0.01, 0.2, 0.7])
@pytest.mark.parametrize(("bits", "encoding", "length"), CASES)
def test_at_any_rate_a_word_s_runs_hold_whole_bursts(
    model: nn.Module, bits: Any, encoding: str, length: int, ber: float
) -> None:
    space = FaultSpace(model, encoding, bits=bits)
    before = bits_of(model)
    with inject(model, Burst(length, ber, bits=bits), encoding, seed=2) as record:
        ranks = ranks_of(record, space)
    assert same_bits(before, model)
    assert record.flips > 0
    for exposed in space:
        for word in by_word(ranks[exposed.name], exposed.mask.bit_count()):
            assert all(len(run) >= length for run in runs(word))


@pytest.mark.parametrize(
    ("bits", "encoding", "length"), [*CASES, (None, "float32", 100), (None, "int8", 20)]
)
def test_within_a_tensor_bursts_run_across_words(
    model: nn.Module, bits: Any, encoding: str, length: int
) -> None:
    """From a word's highest exposed bit into the next one's lowest, never past the tensor's end."""
    space = FaultSpace(model, encoding, bits=bits)
    fault = Burst(length, 0.02, bits=bits, within="tensor")
    before, crossings, exact = bits_of(model), 0, 0
    for trial in range(4):
        with inject(model, fault, encoding, seed=3, trial=trial) as record:
            ranks = ranks_of(record, space)
        assert same_bits(before, model)
        for exposed in space:
            width = exposed.mask.bit_count()
            for run in runs(ranks[exposed.name]):
                assert len(run) >= length
                assert 0 <= run[0] <= run[-1] < exposed.bits
                crossings += run[0] // width != run[-1] // width
                exact += len(run) == length
    assert exact > 0
    assert crossings > 0 or length == 1


def test_words_are_cut_where_tensors_are_not(model: nn.Module) -> None:
    """At rates where bursts of both kinds are frequent, only one kind crosses words."""
    spanning = {}
    for within in ("word", "tensor"):
        with inject(model, Burst(4, 0.001, within=within, where="0.weight"), seed=4) as record:
            ranks = ranks_of(record, FaultSpace(model, where="0.weight"))["0.weight"]
        spanning[within] = [run for run in runs(ranks) if run[0] // 32 != run[-1] // 32]
    assert not spanning["word"]
    assert spanning["tensor"]


@pytest.mark.parametrize("within", ["word", "tensor"])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_rate_0_begins_no_burst_and_rate_1_flips_every_exposed_bit(
    model: nn.Module, length: int, within: str
) -> None:
    before = bits_of(model)
    for ber in (0.0, 1.0):
        fault = Burst(length, ber, bits="exponent", within=within)
        with inject(model, fault) as record:
            assert record.ber == ber
            assert record.flips == ber * FaultSpace(model, bits="exponent").bits
        assert same_bits(before, model)


def test_bursts_as_long_as_their_place_hit_all_of_it_or_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    seen: dict[str, set[int]] = {"word": set(), "tensor": set()}
    for within, sizes in seen.items():
        for trial in range(40):
            length = 8 if within == "word" else 6 * 8
            fault = Burst(length, 0.3, bits="exponent", within=within, where="0.weight")
            with inject(model, fault, trial=trial) as record:
                rows = record.faults()
            for element in set(rows["element"].tolist()):
                assert sum(rows["element"] == element) == 8
            sizes.add(record.flips)
    assert seen["tensor"] == {0, 48}
    assert {8, 16} <= seen["word"] <= set(range(0, 49, 8))


@pytest.mark.parametrize(
    ("fault", "encoding", "words"),
    [
        (Burst(33, 0.1), "float32", "33 bits does not fit into a word of 0.weight, which has 32"),
        (Burst(9, 0.1, bits="exponent"), "float32", "9 bits .* word of 0.weight, which has 8"),
        (Burst(2, 0.1, bits="sign"), "float32", "2 bits .* word of 0.weight, which has 1"),
        (Burst(9, 0.1), "int8", "9 bits does not fit into a word of 0.weight, which has 8"),
        (
            Burst(2049, 0.1, within="tensor"),
            "float32",
            "2049 bits does not fit into a tensor of 0.bias, which has 2048",
        ),
        (
            Burst(65, 0.1, bits="sign", within="tensor"),
            "float32",
            "65 bits does not fit into a tensor of 0.bias, which has 64",
        ),
    ],
)
def test_bursts_that_do_not_fit_name_the_tensor(
    model: nn.Module, fault: Burst, encoding: str, words: str
) -> None:
    before = bits_of(model)
    with pytest.raises(ValueError, match=words), inject(model, fault, encoding):
        pass
    assert same_bits(before, model)


def test_bursts_fit_the_selected_tensors_only(model: nn.Module) -> None:
    """9 bits fit the float32 bias beside int8 weights."""
    with inject(model, Burst(9, 0.5, where="*.bias"), "int8") as record:
        assert set(record.counts()) == {"0.bias"}
    with inject(model, Burst(9, {"*.bias": 0.5}), "int8") as record:
        assert set(record.counts()) == {"0.bias"}
