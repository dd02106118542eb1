"""Are the numbers of the fault space and of a record those that a person counts?"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
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
    encode,
    inject,
)
from proact.nn import HyReLU
from proact.report.fault_tables import fault_space_table


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)  # 54 + 3
        self.norm = nn.BatchNorm2d(3)  # 3 + 3, and 3 + 3 statistics
        self.relu = HyReLU(1.5)  # 1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(7, 5)  # 35 + 5
        self.twin = nn.Linear(7, 5, bias=False)
        self.twin.weight = self.head.weight
        self.empty = nn.Parameter(torch.empty(0, 9))


ELEMENTS = 2 + 2 * (54 + 3 + 12 + 1) + 35 + 5
WEIGHTS = 2 * 54 + 35
SCALES = 2 * 3 + 5  # of the output channels, in float32
INT8 = 32 * ELEMENTS - 24 * WEIGHTS + 32 * SCALES  # all but weights keep their own 32 bits
INT4 = 32 * ELEMENTS - 28 * WEIGHTS + 32 * SCALES


@pytest.fixture
def net() -> Net:
    torch.manual_seed(9)
    return Net()


@pytest.mark.parametrize(
    ("encoding", "where", "bits", "tensors", "elements", "exposed", "whole"),
    [
        ("float32", "*", None, 17, ELEMENTS, 32 * ELEMENTS, 32 * ELEMENTS),
        ("float32", "*", "exponent", 17, ELEMENTS, 8 * ELEMENTS, 32 * ELEMENTS),
        ("float32", "*.conv.weight", 0b1011, 2, 108, 3 * 108, 32 * ELEMENTS),
        ("float32", "scale", (31, "exponent"), 1, 2, 2 * 9, 32 * ELEMENTS),
        ("bfloat16", "*", "mantissa", 17, ELEMENTS, 7 * ELEMENTS, 16 * ELEMENTS),
        ("q7.8", Where(kind="statistics"), "integer", 4, 12, 7 * 12, 16 * ELEMENTS),
        ("q3.4", "twin.weight", None, 1, 35, 8 * 35, 8 * ELEMENTS),
        ("int8", "*", None, 17 + 3, ELEMENTS + SCALES, INT8, INT8),
        ("int8", "head.*", "sign", 2 + 1, 40 + 5, 40 + 5, INT8),
        ("int8", Where(kind="scale"), None, 3, SCALES, 32 * SCALES, INT8),
        ("int8-tensor", Where(kind="scale"), None, 3, 3, 32 * 3, INT8 - 32 * (SCALES - 3)),
        ("int4", Where(kind="weight"), None, 3, WEIGHTS, 4 * WEIGHTS, INT4),
    ],
)  # fmt: skip
def test_sums_are_those_counted_by_hand(
    net: Net, encoding: str, where: Any, bits: Any, tensors: int, elements: int, exposed: int,
    whole: int,
) -> None:  # fmt: skip
    before = bits_of(net)
    space = FaultSpace(net, encoding, where, bits)
    assert (len(space), space.elements, space.bits, space.whole) == (
        tensors,
        elements,
        exposed,
        whole,
    )
    assert sum(tensor.bits for tensor in space) == exposed
    assert sum(tensor.elements for tensor in space) == elements
    assert [space[i].name for i in range(len(space))] == [tensor.name for tensor in space]
    injector = Injector(encode(net, encoding), encoding)
    for fault in (
        BitFlip(0.25, where=where, bits=bits),
        StuckAt(1, 0.25, where=where, bits=bits),
        Burst(1, 0.25, where=where, bits=bits),
    ):
        assert injector.exposed_bits(fault) == exposed
        assert injector.expected_ber(fault) == 0.25
    assert injector.expected_ber(ExactFlips(3, where=where, bits=bits)) == 3 / exposed
    assert same_bits(before, net)


def test_the_frame_has_a_row_a_tensor(net: Net) -> None:
    frame = FaultSpace(net, "int8", where=("head.*", "scale", "*.0.relu.*")).to_pandas(ber=0.25)
    rows = [
        ("scale", "Net", "other", (2,), 2, "float32", 64, 16.0, 64 / 696),
        ("blocks.0.relu.threshold", "HyReLU", "threshold", (), 1, "float32", 32, 8.0, 32 / 696),
        ("head.weight", "Linear", "weight", (5, 7), 35, "int8", 280, 70.0, 280 / 696),
        ("head.weight:scale", "Linear", "scale", (5,), 5, "float32 scale", 160, 40.0, 160 / 696),
        ("head.bias", "Linear", "bias", (5,), 5, "float32", 160, 40.0, 160 / 696),
    ]
    names = ["tensor", "layer", "kind", "shape", "elements", "word", "bits", "flips", "share"]
    assert list(frame.columns) == names
    assert [tuple(row) for row in frame.itertuples(index=False)] == rows
    assert FaultSpace(net).to_pandas()["flips"].tolist() == [0.0] * 17
    assert FaultSpace(net).to_pandas(1.0)["flips"].sum() == 32 * ELEMENTS
    assert abs(FaultSpace(net).to_pandas()["share"].sum() - 1) < 17 * 2**-53
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        FaultSpace(net).to_pandas(1.5)


def test_the_table_prints_rows_and_sums(net: Net) -> None:
    out = io.StringIO()
    space = FaultSpace(net, "float32", where="head.*", bits="exponent")
    Console(file=out, width=160).print(fault_space_table(space, ber=0.125))
    text = out.getvalue()
    title, *lines = text.splitlines()
    assert "float32" in title
    assert "BER 0.125" in title
    assert f"{100 * 320 / (32 * ELEMENTS):.3g} % of all stored bits" in title
    cells = [[c.strip() for c in line[1:-1].split("│")] for line in lines if "│" in line]
    assert cells == [
        ["head.weight", "Linear", "weight", "35", "float32", "280", "35", "87.5"],
        ["head.bias", "Linear", "bias", "5", "float32", "40", "5", "12.5"],
        ["sum", "", "", "40", "", "320", "40", "100"],
    ]
    narrow = io.StringIO()
    Console(file=narrow, width=50).print(fault_space_table(space))
    assert "1e-06" in narrow.getvalue()


def test_whole_is_unknown_where_a_tensor_cannot_be_stored(net: Net) -> None:
    net.register_buffer("codes", torch.zeros(5, dtype=torch.int8))
    assert FaultSpace(net, "float32", where="head.*").whole is None
    assert FaultSpace(net, "native", where="head.*").whole == 32 * ELEMENTS + 8 * 5
    assert "%" not in str(fault_space_table(FaultSpace(net, "float32", where="head.*")).title)


def test_which_layer_was_hit(net: Net) -> None:
    faults: list[Fault] = [
        BitFlip(1.0, where="blocks.1.conv.bias"),
        BitFlip(1.0, where="blocks.1.conv.weight", bits="sign"),
        BitFlip(1.0, where=Where(name="blocks.0.*", kind="statistics"), bits=(0, 1)),
        BitFlip(1.0, where="scale"),
        ExactFlips(1, where="head.bias"),
        BitFlip(0.0, where="head.weight"),
    ]
    exposed = 32 * 3 + 54 + 2 * 6 + 64 + 160 + 32 * 35
    with inject(net, faults) as record:
        assert record.counts("layer") == {
            "blocks.1.conv": 96 + 54,
            "": 64,
            "blocks.0.norm": 12,
            "head": 1,
        }
        assert record.counts("tensor") == record.counts() == {
            "blocks.1.conv.bias": 96,
            "scale": 64,
            "blocks.1.conv.weight": 54,
            "blocks.0.norm.running_mean": 6,
            "blocks.0.norm.running_var": 6,
            "head.bias": 1,
        }  # fmt: skip
        assert record.counts("kind") == {
            "bias": 97, "other": 64, "weight": 54, "statistics": 12,
        }  # fmt: skip
        assert list(record.counts("layer").values()) == [150, 64, 12, 1]
        assert record.flips == record.stored_flips == len(record.faults()) == 227
        assert record.ber == 227 / exposed
        with pytest.raises(ValueError, match="tensor, layer, kind, got 'name'"):
            record.counts("name")
    with inject(net, BitFlip(0.0)) as record:
        assert record.counts("layer") == {}


@pytest.mark.parametrize("encoding", ["float32", "q7.8", "int8", "native"])
def test_counts_agree_with_the_rows(net: Net, encoding: str) -> None:
    with inject(net, BitFlip(0.05), encoding, seed=3) as record:
        rows = record.faults()
        for name, flips in record.counts().items():
            assert (rows["tensor"] == name).sum() == flips
        assert sum(record.counts("layer").values()) == len(rows) == record.flips
        for layer, flips in record.counts("layer").items():
            holders = [str(name).rpartition(".")[0] for name in rows["tensor"]]
            assert holders.count(layer) == flips
        assert record.ber == record.flips / FaultSpace(net, encoding).bits


class Odd(nn.Module):
    """A healthy layer beside one odd tensor."""

    def __init__(self, odd: Tensor, as_buffer: bool = False) -> None:
        super().__init__()
        self.good = nn.Linear(3, 2)
        if as_buffer:
            self.register_buffer("odd", odd)
        else:
            self.odd = nn.Parameter(odd, requires_grad=False)


NO_MEMORY: list[tuple[Callable[[], Tensor], str]] = [
    (lambda: torch.zeros(3, device="meta"), "odd must have plain memory .*meta"),
    (lambda: torch.eye(3).to_sparse(), "odd must have plain memory .*sparse_coo"),
    (lambda: torch.zeros(3, 4).t(), r"odd must be contiguous, got shape \(4, 3\)"),
    (lambda: torch.zeros(1).expand(4), r"odd must be contiguous, got shape \(4,\)"),
    (lambda: torch.zeros(8)[::2], r"odd must be contiguous, got shape \(4,\) with strides \(2,\)"),
]


@pytest.mark.parametrize("as_buffer", [False, True])
@pytest.mark.parametrize(("make", "words"), NO_MEMORY)
@pytest.mark.parametrize("encoding", ["float32", "q3.4", "int8", "native"])
def test_memory_that_cannot_be_hit_is_named(
    make: Callable[[], Tensor], words: str, encoding: str, as_buffer: bool
) -> None:
    model = Odd(make(), as_buffer)
    scales = {"good.weight:scale": 2} if encoding == "int8" else {}
    before = bits_of(model.good)
    with pytest.raises(ValueError, match=words):
        FaultSpace(model, encoding)
    with pytest.raises(ValueError, match=words):
        Injector(model, "native").exposed_bits(BitFlip(1.0))
    for fault in (BitFlip(1.0), StuckAt(1, 1.0), ExactFlips(3), Burst(2, 1.0)):
        with pytest.raises(ValueError, match=words), inject(model, fault, encoding):
            pass
        assert same_bits(before, model.good)
    with inject(model, BitFlip(1.0, where="good.*", bits="sign"), encoding) as record:
        assert record.counts() == {"good.weight": 6, "good.bias": 2} | scales
    assert same_bits(before, model.good)


@pytest.mark.parametrize("as_buffer", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32], ids=str)
@pytest.mark.parametrize("encoding", ["float32", "float16", "q3.4"])
def test_integers_have_no_floating_point_words(
    dtype: torch.dtype, encoding: str, as_buffer: bool
) -> None:
    model = Odd(torch.ones(4, dtype=dtype), as_buffer)
    before = bits_of(model)
    words = f"{encoding} takes .*odd is {dtype}.*where=.*native"
    for fault in (BitFlip(1.0), StuckAt(1, 1.0, where="odd"), ExactFlips(3), Burst(2, 1.0)):
        with pytest.raises(TypeError, match=words), inject(model, fault, encoding):
            pass
        assert same_bits(before, model)
    with inject(model, BitFlip(1.0, where="good.*", bits="sign"), encoding) as record:
        assert record.counts("layer") == {"good": 8}
    assert same_bits(before, model)
    with inject(model, BitFlip(1.0, where="odd"), "native") as record:
        assert record.flips == 4 * 8 * dtype.itemsize
    assert same_bits(before, model)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("encoding", ["float32", "q3.4", "int8", "native"])
def test_parameters_of_no_stored_type_are_named(dtype: torch.dtype, encoding: str) -> None:
    model = Odd(torch.ones(4, dtype=dtype))
    before = bits_of(model)
    for fault in (BitFlip(1.0), ExactFlips(3, where="odd")):
        with pytest.raises(TypeError, match=f"odd is {dtype}"), inject(model, fault, encoding):
            pass
        assert same_bits(before, model)
    with inject(model, BitFlip(1.0, where="good.*", bits="sign"), encoding) as record:
        assert record.flips == 8 + (2 if encoding == "int8" else 0)  # and a scale a channel
    assert same_bits(before, model)
