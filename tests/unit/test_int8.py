"""int8 and its like: weights that are stored as integers times a scale a channel."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from encoding_oracle import (
    FORMATS,
    Grid,
    encoded,
    faulted,
    floats_of,
    holding,
    memory_word,
    scale_of,
    weight_of,
    words_of,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import bits_of, same_bits
from proact.faults import (
    BitFlip,
    FaultSpace,
    encode,
    encoding_report,
    inject,
)

SINGLE, DOUBLE = torch.float32, torch.float64

#: A channel's values each: of scale 1, so that halves are ties; zeros; below and above the smallest
#: scale; one that dwarfs the others; ordinary ones; large ones.
ROWS = [
    [127.0, -127.0, 126.5, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 0.50000006, -126.5],
    [0.0, -0.0] * 6,
    [1e-45, -1e-45, 1e-9, 2.0**-24, 2.0**-23, -(2.0**-22), 1e-7, 0.0, -0.0, 3e-7, 2.0**-25, 1e-8],
    [1e4, 1e-3, -1e-3, 39.0, 39.4, 40.0, -78.0, 0.0, -0.0, 1.0, -9999.0, 118.0],
    [math.sin(5 * k) / 7 for k in range(1, 13)],
    [1e38 * math.cos(3 * k) for k in range(1, 13)],
]


def grids_of(name: str, rows: list[list[float]]) -> list[Grid]:
    """The stored form of each row."""
    bits = int(name.removesuffix("-tensor")[3:])
    tops = [max(map(abs, row)) for row in rows]
    if name.endswith("-tensor"):
        tops = [max(tops)] * len(tops)
    return [Grid(bits, scale_of(top, bits)) for top in tops]


NAMES = ["int8", "int8-tensor", "int4", "int4-tensor", "int2"]


@pytest.mark.parametrize("memory", [SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("engine")
def test_storing_and_every_single_flip_equal_the_oracle(name: str, memory: torch.dtype) -> None:
    rows = ROWS[:5] if name == "int8-tensor" else ROWS
    tensor = torch.stack([floats_of(row, SINGLE).to(memory) for row in rows])
    model, values = holding(tensor), tensor.tolist()
    grids = grids_of(name, values)

    def expected(flips: int) -> list[int]:
        return [
            memory_word(grid, value, memory, flips)
            for grid, row in zip(grids, values, strict=True)
            for value in row
        ]

    stored = encode(model, name)
    assert words_of(weight_of(stored)) == expected(0)
    assert words_of(weight_of(encode(stored, name))) == expected(0)
    scales = FaultSpace(stored, name)[0].word.form.scales  # type: ignore[union-attr]
    assert scales.tolist() == [float(grid.step) for grid in grids][: len(scales)]
    for network in (model, stored):
        before = bits_of(network)
        for bit in range(grids[0].bits):
            with inject(network, BitFlip(1.0, bits=(bit,), where="weight"), name) as record:
                assert words_of(weight_of(network)) == expected(1 << bit)
                assert record.flips == record.exposed_bits == tensor.numel()
            assert same_bits(before, network)


def test_a_record_tells_the_values_of_integers() -> None:
    model = holding(torch.tensor([[127.0, -3.0], [12.7, 0.0]]))
    with inject(model, BitFlip(1.0, bits="sign", where="weight"), "int8") as record:
        faults = record.faults()
    tenth = float(scale_of(floats_of([12.7], SINGLE).item()))
    assert faults["bit"].tolist() == [7] * 4
    assert faults["element"].tolist() == [0, 1, 2, 3]
    assert faults["before"].tolist() == [127.0, -3.0, 127 * tenth, 0.0]
    assert faults["after"].tolist() == [-1.0, 125.0, -tenth, -128 * tenth]


@pytest.mark.parametrize("name", ["int8", "int8-tensor", "int4"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_has_no_scale_is_refused(name: str, value: float) -> None:
    model = holding(torch.tensor([[1.0, value], [2.0, 3.0]]))
    before = bits_of(model)
    for action in (
        lambda: encode(model, name),
        lambda: encoding_report(model, name),
        lambda: faulted(model, BitFlip(0.1), name),
    ):
        with pytest.raises(ValueError, match=f"weight holds NaN or infinity.*{name}"):
            action()
    assert same_bits(before, model)


MOST = FORMATS[SINGLE].value(0x7F7FFFFF)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
@pytest.mark.parametrize(
    ("value", "memory"),
    [(1e300, DOUBLE), (-1e300, DOUBLE), (MOST, SINGLE)],
)
@pytest.mark.usefixtures("engine")
def test_what_is_beyond_the_largest_scale_saturates(
    name: str, value: float, memory: torch.dtype
) -> None:
    """That scale is the last one of which every word is a float32."""
    tensor = torch.tensor([[0.0, value], [2.0, 3.0]], dtype=memory)
    model, (grid, _) = holding(tensor), grids_of(name, tensor.tolist())
    with pytest.warns(UserWarning, match=f"^1 of 4 numbers .* of {name} and were saturated"):
        stored = encode(model, name)
    expected = [memory_word(grid, number, memory) for number in (0.0, value)]
    assert words_of(weight_of(stored))[:2] == expected
    assert words_of(weight_of(encoded(stored, name)))[:2] == expected
    for bit in range(grid.bits):
        flipped = faulted(stored, BitFlip(1.0, bits=(bit,), where="weight"), name)
        assert flipped.isfinite().all()
        assert words_of(flipped)[:2] == [
            memory_word(grid, number, memory, 1 << bit) for number in (0.0, value)
        ]


def test_the_most_negative_float32_has_the_lowest_word() -> None:
    model = holding(torch.tensor([[-MOST, 0.0]]))
    scale = scale_of(MOST)
    stored = weight_of(encode(model, "int8"))  # without a warning: it is within half a step
    assert Fraction(stored[0, 0].item()) == -128 * scale
    assert words_of(weight_of(encode(holding(stored), "int8"))) == words_of(stored)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_what_has_a_scale_does_not_saturate(name: str) -> None:
    """Three quarters of the largest float32, in words up to 2^(bits-1) - 1."""
    bits = int(name[3:])
    limit = (1 << (bits - 1)) - 1
    largest = floats_of([Fraction(2) ** 128 * Fraction(3, 4) * limit / (limit + 1)], SINGLE)
    (stored,) = weight_of(encode(holding(largest.view(1, 1)), name)).flatten().tolist()
    assert abs(Fraction(stored) - Fraction(largest.item())) <= scale_of(largest.item(), bits) / 2


def layers() -> list[tuple[nn.Module, int]]:
    """Layers and the axis of their weight that numbers the output channels (of each group)."""

    class Mine(nn.ConvTranspose2d):
        pass

    return [
        (nn.Conv2d(3, 4, 3), 0), (nn.Conv2d(4, 6, (1, 2), groups=2), 0), (nn.Conv1d(2, 3, 3), 0),
        (nn.Linear(5, 7), 0), (nn.ConvTranspose2d(3, 4, (2, 3)), 1),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), 1), (nn.ConvTranspose1d(3, 2, 2), 1),
        (nn.ConvTranspose3d(2, 3, 2), 1), (Mine(2, 5, 2), 1), (nn.Embedding(7, 5), 0),
        (nn.Bilinear(2, 3, 4), 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "axis"), layers(), ids=[str(layer).replace(" ", "") for layer, _ in layers()]
)
@pytest.mark.parametrize("bits", [8, 4])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(-20, 20))
def test_each_channel_keeps_its_largest_weight_and_half_a_step(
    layer: nn.Module, axis: int, bits: int, seed: int, spread: int
) -> None:
    """Channels differ by powers of two, and the last one is zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = weight_of(layer)
    shape = [-1 if dim == axis else 1 for dim in range(weight.dim())]
    channels = weight.shape[axis]
    power = torch.linspace(0, spread, channels).round()
    with torch.no_grad():
        weight.normal_(generator=generator).mul_(torch.exp2(power).view(shape))
        weight.select(axis, channels - 1).zero_()
    others = {name: tensor for name, tensor in bits_of(layer).items() if name != "weight"}
    stored = encode(layer, f"int{bits}")
    assert {name: same.tolist() for name, same in bits_of(stored).items() if name != "weight"} == {
        name: tensor.tolist() for name, tensor in others.items()
    }
    for channel in range(channels):
        before = weight.select(axis, channel).flatten().tolist()
        after = weight_of(stored).select(axis, channel).flatten().tolist()
        largest = max(before, key=abs)
        scale = scale_of(abs(largest), bits)
        assert all(
            abs(Fraction(a) - Fraction(b)) <= scale / 2
            and (Fraction(b) / scale).denominator == 1
            and abs(b) <= abs(after[before.index(largest)])
            for a, b in zip(before, after, strict=True)
        )
        word = Fraction(after[before.index(largest)]) / scale
        assert abs(word) == ((1 << (bits - 1)) - 1 if largest else 0)
        assert not any(math.copysign(1.0, b) < 0 for b in after if b == 0)


@pytest.mark.parametrize(
    ("layer", "axis"), layers(), ids=[str(layer).replace(" ", "") for layer, _ in layers()]
)
@pytest.mark.usefixtures("engine")
def test_a_flip_has_the_size_of_its_channel_s_scale(layer: nn.Module, axis: int) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        weight_of(layer).normal_(generator=generator)
    stored = encode(layer, "int8")
    clean = weight_of(stored).detach().clone()
    flipped = faulted(stored, BitFlip(1.0, bits=(6,), where="weight"), "int8")
    for channel in range(clean.shape[axis]):
        largest = weight_of(layer).select(axis, channel).abs().max().item()
        steps = (flipped - clean).double().select(axis, channel).abs() / float(scale_of(largest))
        assert steps.flatten().tolist() == [64.0] * steps.numel()


def test_only_weights_of_two_dimensions_or_more_are_quantised() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU(2))
    words = {exposed.name: exposed.word for exposed in FaultSpace(model, "int8")}
    assert {name: word.bits for name, word in words.items()} == {
        "0.weight": 8, "0.weight:scale": 32, "0.bias": 32, "1.weight": 32, "1.bias": 32,
        "2.weight": 32, "1.running_mean": 32, "1.running_var": 32,
    }  # fmt: skip
    report = encoding_report(model, "int8")
    assert [loss.tensor for loss in report.tensors if loss.largest_error] == ["0.weight"]
    assert report.saturated == 0


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 1e38)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(FLOATS, min_size=1, max_size=8))
@example([1.0 + 2.0**-23])
@example([2.0 - 2.0**-23, 1.0])
@example([127 * 2.0**-23, 2.0**-24])
def test_any_channel_is_stored_once_and_for_all(bits: int, row: list[float]) -> None:
    once = weight_of(encode(holding(torch.tensor([row])), f"int{bits}"))
    scale = scale_of(max(map(abs, row)), bits)
    for value, got in zip(row, once[0].tolist(), strict=True):
        assert Fraction(got) == Grid(bits, scale).value(Grid(bits, scale).word(value))
        assert abs(Fraction(got) - Fraction(value)) <= scale / 2
    twice = encode(holding(once.detach()), f"int{bits}")
    assert words_of(weight_of(twice)) == words_of(once)


@pytest.mark.usefixtures("engine")
def test_faults_one_after_the_other_share_the_scales() -> None:
    """The first fault makes -128, which no weight has; the second one meets the same scales."""
    generator = torch.Generator().manual_seed(1)
    stored = encoded(holding(torch.randn(3, 8, generator=generator)), "int8")
    clean = words_of(weight_of(stored))
    grids = grids_of("int8", weight_of(stored).tolist())
    sign, low = (BitFlip(1.0, bits=bits, where="weight") for bits in ("sign", 0b1011))
    expected = [
        memory_word(grid, value, SINGLE, 0x8B)
        for grid, row in zip(grids, weight_of(stored).tolist(), strict=True)
        for value in row
    ]
    assert words_of(faulted(stored, [sign, low], "int8")) == expected
    assert words_of(faulted(stored, [sign, sign], "int8")) == clean
    with inject(stored, sign, "int8"):
        inside = words_of(weight_of(stored))
        with inject(stored, low, "int8"):
            pass
        assert words_of(weight_of(stored)) == inside
    assert words_of(weight_of(stored)) == clean
