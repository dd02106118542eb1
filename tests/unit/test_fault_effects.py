"""Do the kinds do to the stored words what they say, in every encoding, and nothing else?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from conftest import bits_of, same_bits
from proact.encodings import UniformEncoding
from proact.encodings.base import Elements, Floats, Words
from proact.faults import (
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    FaultSpace,
    Injector,
    Record,
    StuckAt,
    Where,
    encode,
    inject,
)
from proact.nn import HyReLU

Site = tuple[str, int, int]
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class SignMagnitude(UniformEncoding):
    """Sixteenths, a sign bit and seven bits of magnitude: an encoding that native code lacks."""

    def __init__(self) -> None:
        self.name, self.bits = "sign-magnitude", 8
        self.fields = {"sign": 0x80, "magnitude": 0x7F}

    def words(self, values: Floats, elements: Elements) -> Words:
        magnitude = np.minimum(np.rint(np.abs(values) * 16), 127).astype(np.uint64)
        return magnitude | (np.signbit(values).astype(np.uint64) << np.uint64(7))

    def values(self, words: Words, elements: Elements) -> Floats:
        magnitude = (words & np.uint64(0x7F)).astype(np.float64) / 16
        return np.where(words >> np.uint64(7) & np.uint64(1), -magnitude, magnitude)


#: Encodings whose every word memory holds as it is, whatever faults made of it.
EXACT = ["float32", "q3.4", "q7.8", "int8", "int8-tensor", "int4", "native", SignMagnitude()]
#: Memory rounds some faulty words of these, and may quieten a NaN.
ROUNDING = ["float16", "bfloat16", "q15.16"]


#: Words cannot be told from values while faults are in scales, which have tests of their own.
ELEMENTS = Where(exclude=Where(kind="scale"))


@pytest.fixture
def model() -> nn.Sequential:
    """Weights, biases, statistics, a 0-dimensional threshold and tensors without elements."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), HyReLU(1.5), nn.Flatten(), nn.Linear(7, 5)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.register_parameter("empty", nn.Parameter(torch.empty(0, 3)))
    model[0].register_buffer("void", torch.empty(4, 0))
    return model


def words_of(space: FaultSpace) -> list[NDArray[np.uint64]]:
    """The stored words that memory holds now."""
    found = []
    for exposed in space:
        width = exposed.tensor.element_size()
        raw = exposed.tensor.reshape(-1).view(_SIGNED[width]).numpy().view(f"u{width}")
        elements = np.arange(exposed.elements, dtype=np.uint64)
        found.append(
            exposed.word.words_in(raw.astype(np.uint64), exposed.tensor.dtype, elements).copy()
        )
    return found


def sites_of(record: Record) -> list[Site]:
    rows = record.faults()
    return list(
        zip(rows["tensor"].tolist(), rows["element"].tolist(), rows["bit"].tolist(), strict=True)
    )


def all_sites(space: FaultSpace) -> set[Site]:
    return {
        (exposed.name, element, bit)
        for exposed in space
        for element in range(exposed.elements)
        for bit in range(64)
        if exposed.mask >> bit & 1
    }


def masks_of(space: FaultSpace, sites: list[Site]) -> list[NDArray[np.uint64]]:
    """Words whose set bits are the sites."""
    masks = {exposed.name: np.zeros(exposed.elements, np.uint64) for exposed in space}
    for name, element, bit in sites:
        masks[name][element] |= np.uint64(1 << bit)
    return [masks[exposed.name] for exposed in space]


def hit(model: nn.Module, fault: Any, encoding: Any = "float32", **pattern: int) -> list[Site]:
    with inject(model, fault, encoding, **pattern) as record:
        sites = sites_of(record)
        assert len(sites) == record.flips
    return sites


@pytest.mark.parametrize("bits", [None, "sign", 1, 0b1010, (0, 3), ("sign", 0)], ids=str)
@pytest.mark.parametrize("encoding", [*EXACT, *ROUNDING], ids=str)
def test_ber_0_hits_nothing_and_ber_1_every_exposed_bit_once(
    model: nn.Module, encoding: Any, bits: Any
) -> None:
    model = encode(model, encoding)
    space = FaultSpace(model, encoding, ELEMENTS, bits)
    assert not {"empty", "0.void"} & {exposed.name for exposed in space}
    before, words = bits_of(model), words_of(space)
    chosen = {"bits": bits, "where": ELEMENTS}
    for fault in (BitFlip(0.0, **chosen), StuckAt(1, 0.0, **chosen), Burst(1, 0.0, **chosen)):
        with inject(model, fault, encoding) as record:
            assert (record.flips, record.ber, len(record.faults())) == (0, 0.0, 0)
            assert same_bits(before, model)
    with inject(model, BitFlip(1.0, **chosen), encoding) as record:
        assert (record.flips, record.ber) == (space.bits, 1.0)
        assert Counter(sites_of(record)) == Counter(all_sites(space))
        if encoding in EXACT:
            for exposed, old, new in zip(space, words, words_of(space), strict=True):
                assert np.all(old ^ new == exposed.mask), exposed.name
    assert same_bits(before, model)


@pytest.mark.parametrize("encoding", [*EXACT, *ROUNDING], ids=str)
@pytest.mark.parametrize("bits", [None, "sign"])
def test_exactly_n_distinct_exposed_bits_flip(
    model: nn.Module, encoding: Any, bits: str | None
) -> None:
    model = encode(model, encoding)
    space = FaultSpace(model, encoding, bits=bits)
    before, exposed = bits_of(model), all_sites(space)
    for n in (0, 1, 2, 13, space.bits // 2, space.bits - 1, space.bits):
        with inject(model, ExactFlips(n, bits=bits), encoding, trial=n) as record:
            sites = sites_of(record)
            assert record.flips == len(sites) == len(set(sites)) == n
            assert set(sites) <= exposed
            assert record.ber == n / space.bits
            assert same_bits(before, model) == (n == 0)
        assert same_bits(before, model)
    with (
        pytest.raises(ValueError, match=f"n must be at most {space.bits}.*got {space.bits + 1}"),
        inject(model, ExactFlips(space.bits + 1, bits=bits), encoding),
    ):
        pass
    assert same_bits(before, model)


def test_the_space_that_n_must_fit_is_the_selected_one(model: nn.Module) -> None:
    assert set(hit(model, ExactFlips(32, where="2.threshold"))) == {
        ("2.threshold", 0, bit) for bit in range(32)
    }
    with pytest.raises(ValueError, match="n must be at most 32.*got 33"):
        Injector(model).exposed_bits(ExactFlips(33, where="2.threshold"))


@pytest.mark.parametrize("make", [lambda b: BitFlip(0.1, bits=b), lambda b: ExactFlips(9, bits=b)])
@pytest.mark.parametrize(
    ("encoding", "spellings"),
    [
        ("float32", ["sign", 1 << 31, (31,), ["sign"], [31, "sign"], np.int64(1 << 31)]),
        ("float32", ["exponent", 0x7F800000, range(23, 31), (30, *range(23, 30))]),
        ("float32", [("sign", "mantissa", 23), 0x80FFFFFF]),
        ("float32", [None, 0xFFFFFFFF, range(32), ("sign", "exponent", "mantissa")]),
        ("q7.8", ["fraction", 0xFF, range(8)]),
        ("q7.8", ["integer", 0x7F00, range(8, 15)]),
    ],
)
def test_bits_are_spelt_in_several_ways(
    model: nn.Module, make: Callable[[Any], Fault], encoding: str, spellings: list[Any]
) -> None:
    first, *others = (hit(model, make(bits), encoding, seed=3) for bits in spellings)
    assert len(first) > 5
    for other in others:
        assert other == first


@pytest.mark.parametrize(
    ("bits", "encoding", "words"),
    [
        ((32,), "float32", "0.weight: the bits of float32 are 0 to 31.*got 32"),
        ((-1,), "float32", "0.weight: .*got -1"),
        ((31,), "int8", "0.weight: the bits of int8 are 0 to 7.*got 31"),
        (1 << 32, "float32", "0.weight: .*0x100000000"),
        (-1, "float32", "0.weight: .*-0x1"),
        (0, "float32", "0.weight: .*0x0"),
        ((), "float32", "0.weight: .*at least one bit"),
        ("fraction", "float32", "0.weight: .*sign, exponent, mantissa, got 'fraction'"),
        (("sign", "exponent"), "q3.4", "0.weight: .*sign, integer, fraction, got 'exponent'"),
    ],
)
def test_bits_that_words_lack_are_named_with_the_tensor(
    model: nn.Module, bits: Any, encoding: str, words: str
) -> None:
    before = bits_of(model)
    for fault in (BitFlip(0.1, bits=bits), StuckAt(1, 0.1, bits=bits), ExactFlips(1, bits=bits)):
        with pytest.raises(ValueError, match=words), inject(model, fault, encoding):
            pass
        assert same_bits(before, model)


@pytest.mark.parametrize("kind", [BitFlip, lambda ber: StuckAt(0, ber), lambda ber: Burst(2, ber)])
def test_the_pattern_is_a_function_of_seed_and_trial(
    model: nn.Module, kind: Callable[[float], Fault]
) -> None:
    patterns = [hit(model, kind(0.05), seed=s, trial=t) for s in (0, 1) for t in (0, 1)]
    assert patterns == [hit(model, kind(0.05), seed=s, trial=t) for s in (0, 1) for t in (0, 1)]
    assert len({tuple(pattern) for pattern in patterns}) == 4


@pytest.mark.parametrize("bits", [None, "sign", (0, 2)], ids=str)
@pytest.mark.parametrize("ber", [0.03, 0.4, 1.0])
@pytest.mark.parametrize("encoding", [*EXACT, *ROUNDING], ids=str)
def test_stuck_cells_are_those_that_bit_flip_flips(
    model: nn.Module, encoding: Any, ber: float, bits: Any
) -> None:
    model = encode(model, encoding)
    space = FaultSpace(model, encoding, ELEMENTS, bits)
    before, words = bits_of(model), words_of(space)
    cells = hit(model, BitFlip(ber, bits=bits, where=ELEMENTS), encoding, seed=5, trial=6)
    stuck = masks_of(space, cells)
    changed: list[set[Site]] = []
    for value in (0, 1):
        stuck_at = StuckAt(value, ber, bits=bits, where=ELEMENTS)
        with inject(model, stuck_at, encoding, seed=5, trial=6) as record:
            sites = sites_of(record)
            changed.append(set(sites))
            assert record.flips == len(sites) == len(set(sites))
            if encoding in EXACT:
                for old, mask, new in zip(words, stuck, words_of(space), strict=True):
                    assert np.array_equal(new, old | mask if value else old & ~mask)
        assert same_bits(before, model)
    assert changed[0].isdisjoint(changed[1])
    assert changed[0] | changed[1] == set(cells)
    for mine, value in zip(changed, (0, 1), strict=True):
        held = masks_of(space, list(mine))
        assert all(
            np.all((old if value == 0 else ~old) & mask == mask)
            for old, mask in zip(words, held, strict=True)
        ), "a bit that held the value already was counted"
