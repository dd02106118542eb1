"""Block formats: values and scales against plain fractions, exhaustively where words are short."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from block_oracle import Element, blocks_of, nearest, power_of_two_scale, product
from encoding_oracle import FORMATS, SMALL, Grid, Value, words_of
from torch import Tensor, nn

from proact.encodings import encoding_named
from proact.faults import BitFlip, FaultSpace, Replay, encode, encoding_report, inject

E4M3, E2M1, HALF = SMALL["float8_e4m3"], SMALL["e2m1"], FORMATS[torch.float16]
#: Formats with powers of two as scales: elements, and the length of a block.
POWERS: dict[str, tuple[Element, int]] = {
    "mxfp8_e4m3": (E4M3, 32),
    "mxfp8_e5m2": (SMALL["float8_e5m2"], 32),
    "mxfp6_e3m2": (SMALL["e3m2"], 32),
    "mxfp6_e2m3": (SMALL["e2m3"], 32),
    "mxfp4": (E2M1, 32),
    "mxint8": (Grid(8, Fraction(1, 64)), 32),
    "bfp5-block7": (Grid(5, Fraction(1, 8)), 7),
    "bfp16-block1": (Grid(16, Fraction(1, 1 << 14)), 1),
}
GROUPS = ["int4-group32", "int4-group128", "int3-group5", "int8-group64"]
GROUPS_WITH_ZEROS = ["int4-group32-zero", "int2-group9-zero", "int8-group16-zero"]
ALL = [*POWERS, "nvfp4", *GROUPS, *GROUPS_WITH_ZEROS]


def layer(values: Tensor) -> nn.Linear:
    model = nn.Linear(values.shape[1], values.shape[0], bias=False, dtype=values.dtype)
    with torch.no_grad():
        model.weight.copy_(values)
    return model


def stored(values: Tensor, encoding: str) -> Tensor:
    return encode(layer(values), encoding).get_parameter("weight").detach()


def stored_words(model: nn.Module, encoding: str) -> dict[str, list[int]]:
    """All stored words of a rounded layer, by the name of its parts."""
    found = {}
    for exposed in FaultSpace(model, encoding):
        memory = np.array(words_of(exposed.tensor), np.uint64)
        elements = np.arange(len(memory), dtype=np.uint64)
        found[exposed.name] = exposed.word.words_in(memory, exposed.tensor.dtype, elements).tolist()
    return found


def scales_of(values: Tensor, encoding: str, part: str = "scale") -> list[Value]:
    """The values of the stored scales."""
    words = stored_words(encode(layer(values), encoding), encoding)[f"weight:{part}"]
    return [value_of_scale(encoding, part, word) for word in words]


def value_of_scale(encoding: str, part: str, word: int) -> Value:
    """The value of the word of a scale, by the definition of its format."""
    if part == "zero_point":
        return Fraction(word)
    if part == "tensor_scale" or encoding.startswith("int8-tensor"):
        return FORMATS[torch.float32].value(word)
    if encoding in POWERS:
        return math.nan if word == 255 else Fraction(2) ** (word - 127)
    return (E4M3 if encoding == "nvfp4" else HALF).value(word)


def hard_values(rows: int, row: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of very different sizes, with zeros, ties, powers of two and what is just below them."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, row, generator=draw, dtype=torch.float64)
    values *= torch.logspace(-9, 2, rows, base=10.0, dtype=torch.float64)[:, None]
    values[0] = 0.0
    values[1, : row // 2] = 0.0
    values[2] = 2.0 ** torch.randint(-8, 3, (row,), generator=draw)
    values[3] = torch.randint(-32, 33, (row,), generator=draw) / 8
    values[4] = math.nextafter(2.0, 0.0)
    values[5] = -torch.rand(row, generator=draw, dtype=torch.float64) - 1.0
    return values.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", POWERS)
def test_rounding_to_blocks_with_powers_of_two(name: str, dtype: torch.dtype) -> None:
    element, block = POWERS[name]
    values = hard_values(9, 75, 1, dtype)
    expected, scales = [], []
    for numbers in blocks_of(values.tolist(), block):
        scale = power_of_two_scale(numbers, element)
        scales.append(scale)
        expected += [product(nearest(element, number / scale), scale) for number in numbers]
    assert stored(values, name).reshape(-1).tolist() == expected
    assert scales_of(values, name) == scales


def test_rounding_to_nvfp4() -> None:
    """The scale of the tensor comes from its largest magnitude, that of a block from the block."""
    values = hard_values(9, 75, 2)
    largest = Fraction(float(values.abs().max()))
    whole = Fraction(scales_of(values, "nvfp4", "tensor_scale")[0])
    assert largest / (6 * 448) <= whole <= largest / (6 * 448) * (1 + Fraction(1, 1 << 17))
    rounded = stored(values, "nvfp4").reshape(-1).tolist()
    blocks = blocks_of(values.tolist(), 16)
    for numbers, scale in zip(blocks, scales_of(values, "nvfp4"), strict=True):
        exact = max(map(abs, numbers)) / 6 / whole
        if exact >= Fraction(1, 64):  # normal numbers: the nearest scale
            assert nearest(E4M3, exact) == scale
        else:  # the nearest one or the one below it, at least the smallest one
            step = Fraction(1, 512)
            assert 0 <= max(nearest(E4M3, exact), step) - Fraction(scale) <= step
            assert scale >= step
        by = Fraction(scale) * whole
        for number in numbers:
            assert rounded.pop(0) == product(nearest(E2M1, number / by), by)


@pytest.mark.parametrize("name", GROUPS)
def test_rounding_to_groups_without_zero_points(name: str) -> None:
    bits, group = (int(part) for part in name.removeprefix("int").split("-group"))
    element = Grid(bits, Fraction(1))
    values = hard_values(9, 75, 3)
    rounded = stored(values, name).reshape(-1).tolist()
    smallest = Fraction(1, 1 << 24)
    blocks = blocks_of(values.tolist(), group)
    for numbers, scale in zip(blocks, map(Fraction, scales_of(values, name)), strict=True):
        exact = max(map(abs, numbers)) / ((1 << (bits - 1)) - 1)
        if exact >= Fraction(1, 1 << 14):
            assert nearest(HALF, exact) == scale
        else:
            assert 0 <= max(nearest(HALF, exact), smallest) - scale <= smallest
        for number in numbers:
            assert rounded.pop(0) == product(nearest(element, number / scale), scale)


@pytest.mark.parametrize("name", GROUPS_WITH_ZEROS)
def test_rounding_to_groups_with_zero_points(name: str) -> None:
    bits, group = (
        int(part) for part in name.removeprefix("int").removesuffix("-zero").split("-group")
    )
    top = (1 << bits) - 1
    values = hard_values(9, 75, 4)
    rounded = stored(values, name).reshape(-1).tolist()
    scales, zeros = scales_of(values, name), scales_of(values, name, "zero_point")
    blocks = blocks_of(values.tolist(), group)
    for numbers, scale, zero in zip(blocks, map(Fraction, scales), map(int, zeros), strict=True):
        low, high = min(0, *numbers), max(0, *numbers)
        exact = (high - low) / top
        # A scale may lie a few steps of its format lower, so that rounding again changes nothing.
        assert scale <= exact * (1 + Fraction(1, 2048)) or scale == Fraction(1, 1 << 24)
        assert scale >= exact * (1 - Fraction(1, 256)) or exact < Fraction(1, 1 << 14)
        assert zero == max(0, min(top, round(-low / scale)))
        for number in numbers:
            word = max(0, min(top, round(number / scale) + zero))
            assert rounded.pop(0) == float((word - zero) * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_rounding_again_changes_nothing(name: str, dtype: torch.dtype) -> None:
    for seed in range(20):
        values = hard_values(12, 200, seed, dtype)
        once = stored(values, name)
        assert torch.equal(stored(once, name), once)
        assert once[0].abs().max() == 0.0


@pytest.mark.parametrize("name", ALL)
def test_every_place_is_within_a_step(name: str) -> None:
    values = hard_values(7, 50, 5)[2:]
    error = (stored(values, name) - values).abs().amax(1) / values.abs().amax(1)
    assert (error < 0.51).all()


def bits_between(before: int, after: int) -> list[int]:
    return [bit for bit in range(32) if (before ^ after) >> bit & 1]


def other_words(bits: int) -> Iterator[int]:
    return iter(range(1 << bits) if bits <= 8 else range(0, 1 << bits, 257))


def single(value: float) -> Tensor:
    """A float32, which is infinite if the value is too large."""
    return torch.tensor(value, dtype=torch.float64).float()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether values are equal; NaN equals NaN."""
    return torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0))


def meaning(name: str) -> Element:
    if name in POWERS:
        return POWERS[name][0]
    return E2M1 if name == "nvfp4" else Grid(4, Fraction(1))


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e5m2", "mxint8", "nvfp4", "int4-group32"])
def test_every_word_of_a_scale_changes_its_block_and_no_other(name: str) -> None:
    """All words of 8 bits, and a share of those of 16."""
    block = 16 if name == "nvfp4" else 32
    values = hard_values(8, 40, 6)[5:]
    model = encode(layer(values), name)
    clean = model.get_parameter("weight").detach().clone()
    words = stored_words(model, name)
    whole: Value = scales_of(values, name, "tensor_scale")[0] if name == "nvfp4" else Fraction(1)
    number = 3  # the second block of the second row, or the first one of three
    row, begin = divmod(number, -(-40 // block))
    begin *= block
    (exposed,) = (e for e in FaultSpace(model, name) if e.name == "weight:scale")
    for word in other_words(exposed.word.bits):
        flips = bits_between(words["weight:scale"][number], word)
        sites = [("weight:scale", number, bit) for bit in flips]
        expected = clean.clone()
        for place in range(begin, min(begin + block, 40)):
            plain = meaning(name).value(words["weight"][row * 40 + place])
            factor = product(value_of_scale(name, "scale", word), whole)
            expected[row, place] = single(product(plain, factor))
        with inject(model, Replay(sites), name):
            assert same(model.get_parameter("weight").detach(), expected), word
        assert torch.equal(model.get_parameter("weight"), clean)


@pytest.mark.parametrize("zero", range(16))
def test_every_zero_point_shifts_its_group(zero: int) -> None:
    values = hard_values(8, 40, 7)[4:]
    name = "int4-group32-zero"
    model = encode(layer(values), name)
    clean = model.get_parameter("weight").detach().clone()
    words = stored_words(model, name)
    scale, before = scales_of(values, name)[2], words["weight:zero_point"][2]
    sites = [("weight:zero_point", 2, bit) for bit in bits_between(before, zero)]
    expected = clean.clone()
    for place in range(32):
        expected[1, place] = (words["weight"][40 + place] - zero) * float(scale)
    with inject(model, Replay(sites), name):
        assert torch.equal(model.get_parameter("weight"), expected)
    assert torch.equal(model.get_parameter("weight"), clean)


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp4", "mxint8"])
def test_every_word_of_an_element(name: str) -> None:
    model = encode(layer(hard_values(8, 40, 8)[3:4]), name)
    weight = model.get_parameter("weight")
    words, scale = stored_words(model, name)["weight"], scales_of(weight.detach(), name)[0]
    for word in other_words(FaultSpace(model, name)[0].word.bits):
        sites = [("weight", 7, bit) for bit in bits_between(words[7], word)]
        with inject(model, Replay(sites), name):
            expected = product(meaning(name).value(word), scale)
            assert same(weight[0, 7].detach(), single(expected))


def test_sizes_of_memory() -> None:
    """Blocks end with each row; what fills them up is stored, and is not exposed."""
    model = layer(hard_values(8, 40, 9))
    for name, elements, scales in (
        ("mxfp4", 8 * 64 * 4, 8 * 2 * 8),
        ("nvfp4", 8 * 48 * 4, 8 * 3 * 8 + 32),
        ("int4-group32-zero", 8 * 64 * 4, 8 * 2 * (16 + 4)),
        ("int8", 8 * 40 * 8, 8 * 32),
        ("int8-tensor", 8 * 40 * 8, 32),
    ):
        space = FaultSpace(encode(model, name), name)
        bits = {each.name: each.bits for each in space}
        assert space.whole == elements + scales
        assert sum(bits.values()) - bits["weight"] == scales
        assert bits["weight"] == 8 * 40 * space[0].word.bits
        assert encoding_report(model, name).bits_per_parameter == (elements + scales) / 320


def test_the_rows_of_a_convolution_are_its_outputs() -> None:
    torch.manual_seed(1)
    convolution = nn.Conv2d(5, 4, 3, bias=False)
    flat = layer(convolution.weight.detach().reshape(4, 45))
    rounded = encode(convolution, "mxfp4").get_parameter("weight")
    assert torch.equal(rounded.reshape(4, 45), stored(flat.weight.detach(), "mxfp4"))


def test_only_weights_are_stored_in_blocks() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    names = {each.name: each.word.name for each in FaultSpace(encode(model, "mxfp4"), "mxfp4")}
    assert {name for name, word in names.items() if word == "mxfp4"} == {"0.weight", "3.weight"}
    assert names["0.weight:scale"] == "e8m0 scale"
    assert names["1.running_var"] == names["0.bias"] == "float32"


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "int4-group32", "mxfp8_e5m2"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    model = layer(torch.tensor([[1.0, bad]]))
    with pytest.raises(ValueError, match=f"weight holds NaN or infinity.*{name}"):
        encode(model, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mxfp5", "did you mean 'mxfp4'"),
        ("nvfp5", "did you mean 'nvfp4'"),
        ("int4-group0", "1 to 1048576 elements, got 0"),
        ("int9-group32", "an encoding is one of"),
        ("int4-group", "an encoding is one of"),
        ("bfp1-block8", "2 to 16 bits"),
        ("bfp8-block2000000", "1 to 1048576 elements"),
    ],
)
def test_unknown_formats(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoding_named(name)


@pytest.mark.parametrize(("short", "name"), [("mxfp8", "mxfp8_e4m3"), ("mxfp6", "mxfp6_e3m2")])
def test_short_names(short: str, name: str) -> None:
    assert encoding_named(short).name == name
    assert encoding_named(short) == encoding_named(name)


def test_codes_in_place_are_refused_and_others_protect_the_elements() -> None:
    model = layer(hard_values(8, 64, 10))
    with pytest.raises(ValueError, match=r"secded takes bits.*mxfp4 have none to spare"):
        encode(model, "mxfp4+secded")
    coded = encode(model, "mxfp4+tmr")
    clean = coded.get_parameter("weight").detach().clone()
    assert torch.equal(clean, stored(model.weight.detach(), "mxfp4"))
    with inject(coded, BitFlip(1e-3), "mxfp4+tmr", seed=1) as record:
        assert record.flips > 0
        assert record.corrected == record.flips
        assert torch.equal(coded.get_parameter("weight"), clean)


@pytest.mark.parametrize(
    ("name", "value", "warns"),
    [
        ("int4-group32", 8.5e5, True),
        ("int4-group32", 4.5e5, False),
        ("nvfp4", 2.2e38, True),
        ("nvfp4", 3.0, False),
        ("mxfp4", 1.95, False),
        ("mxfp4", 2e38, False),
    ],
)
def test_values_beyond_the_largest_scale_saturate_with_a_warning(
    name: str, value: float, warns: bool
) -> None:
    values = torch.full((2, 64), value)
    values[0, 0] = value / 1.3
    saturated = encoding_report(layer(values), name).saturated
    assert (saturated > 0) == warns


def test_nan_of_activations_is_the_number_0_in_every_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from proact.encodings import scaled_words

    tensor = torch.tensor([[1.0, math.nan, -2.0, math.inf, -math.inf, 0.3]])
    for _ in range(2):
        for name in ("int4-group32-zero", "mxfp4", "nvfp4", "mxint8"):
            word = encoding_named(name).activation_word("x", tensor, None)
            rounded = word.rounded(tensor)
            assert rounded[0, 1] == 0.0, name
            assert rounded.isfinite().all()
        monkeypatch.setattr(scaled_words, "rounded_to_words", lambda *_: None)
