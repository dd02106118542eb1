"""A user's own encoding, float8 e4m3, against the same faults in bytes.

The oracle is a twin of the network that holds the stored words themselves, in uint8 buffers of the
same names: native code flips these, and nothing of the encoding is asked.
"""

from __future__ import annotations

import io
import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoding_oracle import encoded, floats_of, holding, tensor_of, weight_of, words_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import proact
from conftest import bits_of, same_bits
from proact.encodings import UniformEncoding
from proact.faults import (
    BitFlip,
    Burst,
    ExactFlips,
    Fault,
    FaultSpace,
    Injector,
    Replay,
    StuckAt,
    encode,
    encoding_report,
    inject,
)

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_BYTES = np.arange(256)
_EXPONENT, _MANTISSA = _BYTES >> 3 & 15, _BYTES & 7
_MAGNITUDES = np.where(
    _EXPONENT > 0, np.ldexp(8.0 + _MANTISSA, _EXPONENT - 10), np.ldexp(1.0 * _MANTISSA, -9)
)
_MAGNITUDES[_BYTES & 127 == 127] = np.nan
_TABLE = np.where(_BYTES < 128, _MAGNITUDES, -_MAGNITUDES)
_BETWEEN = (_TABLE[:126] + _TABLE[1:127]) / 2


class Float8(UniformEncoding):
    """e4m3: no infinity, 448 the largest number, saturating; nearest, ties to even."""

    name = "e4m3"
    bits = 8
    fields = {"sign": 0x80, "exponent": 0x78, "mantissa": 0x07}  # noqa: RUF012

    def words(self, values: Floats, elements: Words) -> Words:
        magnitudes = np.abs(values)
        below, above = (np.searchsorted(_BETWEEN, magnitudes, side) for side in ("left", "right"))
        nearest = np.where(below % 2 == 0, below, above)  # they differ where it is a tie
        nearest[np.isnan(values)] = 127
        return nearest.astype(np.uint64) | np.signbit(values).astype(np.uint64) << np.uint64(7)

    def values(self, words: Words, elements: Words) -> Floats:
        numbers: Floats = _TABLE[words]
        return numbers

    def saturates(self, tensor: Tensor) -> Tensor:
        return tensor.abs() > 464  # which is a tie, and goes to 448


def plain_value(word: int) -> float:
    """The oracle's reading of a word."""
    exponent, digits = word >> 3 & 15, word & 7
    if word & 127 == 127:
        return math.nan
    digits, exponent = (digits + 8, exponent) if exponent else (digits, 1)
    return math.copysign(float(digits * Fraction(2) ** (exponent - 10)), 0.5 - (word >> 7))


#: All numbers are multiples of 2^-9.
MULTIPLES = [int(512 * Fraction(plain_value(word))) for word in range(127)]


def plain_word(value: float) -> int:
    sign = (math.copysign(1.0, value) < 0) << 7
    if math.isnan(value):
        return sign | 127
    exact = 512 * Fraction(min(abs(value), 448.0))
    above = bisect_left(MULTIPLES, exact)
    near = {max(above - 1, 0), above}
    return sign | min(near, key=lambda word: (abs(MULTIPLES[word] - exact), word & 1))


TENSORS = {"conv.weight": (4, 3, 2, 2), "conv.bias": (4,), "gain": (), "head.weight": (3, 5)}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Parameters of `TENSORS`, among them every special value."""
    generator = torch.Generator().manual_seed(8)
    model = nn.Module()
    model.conv, model.head = nn.Module(), nn.Module()
    for name, shape in TENSORS.items():
        owner, _, leaf = name.rpartition(".")
        values = torch.randn(shape, generator=generator) * 3
        model.get_submodule(owner).register_parameter(leaf, nn.Parameter(values.to(dtype)))
    special = [0.0, -0.0, 448.0, 464.0, -1e30, math.inf, -math.inf, math.nan, 2.0**-9, 2.0**-10]
    with torch.no_grad():
        model.get_parameter("head.weight").view(-1)[:10] = torch.tensor(special, dtype=dtype)
    return model


def twin_of(model: nn.Module) -> nn.Module:
    """Buffers of the stored words, under the same names."""
    twin = nn.Module()
    twin.conv, twin.head = nn.Module(), nn.Module()
    for name, tensor in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        words = [plain_word(value) for value in tensor.flatten().tolist()]
        stored = tensor_of(words, torch.uint8).view(tensor.shape)
        twin.get_submodule(owner).register_buffer(leaf, stored)
    return twin


def decoded(twin: nn.Module, name: str, dtype: torch.dtype) -> list[int]:
    words = words_of(twin.get_buffer(name))
    return canonical(floats_of([plain_value(word) for word in words], dtype))


def canonical(tensor: Tensor) -> list[int]:
    """The memory words, all NaN alike."""
    tensor = tensor.detach()
    return words_of(torch.where(tensor.isnan(), math.nan, tensor))


def test_every_word_and_every_rounding_equal_the_oracle() -> None:
    form, nowhere = Float8(), np.empty(0, np.uint64)
    words = np.arange(256, dtype=np.uint64)
    numbers = form.values(words, nowhere)
    assert [w for w in range(256) if math.isnan(numbers[w])] == [127, 255]
    for word in range(256):
        assert word in (127, 255) or float(numbers[word]).hex() == plain_value(word).hex()
    assert form.words(numbers, nowhere).tolist() == words.tolist()
    middle = (numbers[:126] + numbers[1:127]) / 2
    near = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, 1e9)])
    near = np.concatenate([near, -near, [449.0, 464.0, 1e300, -math.inf, 5e-324, -0.0]])
    assert form.words(near, nowhere).tolist() == [plain_word(v) for v in near.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_network_is_stored_in_it(dtype: torch.dtype) -> None:
    model = network(dtype)
    before, twin = bits_of(model), twin_of(model)
    with pytest.warns(UserWarning, match="^3 of 68 numbers .* of e4m3 and were saturated"):
        stored = encode(model, Float8())
    for name in TENSORS:
        assert canonical(stored.get_parameter(name)) == decoded(twin, name, dtype)
    assert same_bits(before, model)
    assert same_bits(bits_of(stored), encode(stored, Float8()))
    assert encoding_report(model, Float8()).saturated == 3


def test_its_fault_space_counts_bytes() -> None:
    space = FaultSpace(network(), Float8(), bits="exponent", where=("conv.*", "gain"))
    assert [(e.name, e.mask, e.bits) for e in space] == [
        ("gain", 0x78, 4), ("conv.weight", 0x78, 48 * 4), ("conv.bias", 0x78, 4 * 4)
    ]  # fmt: skip
    assert FaultSpace(network(), Float8()).whole == 68 * 8
    assert set(space.to_pandas()["word"]) == {"e4m3"}
    with pytest.raises(ValueError, match="the bit fields of e4m3 are sign, exponent, mantissa"):
        FaultSpace(network(), Float8(), bits="fraction")
    with pytest.raises(
        TypeError,
        match="e4m3 takes float32 or float64, and weight is.*float16: use the encoding native",
    ):
        FaultSpace(holding(torch.ones(2, dtype=torch.float16)), Float8())


FAULTS: list[tuple[Fault | Sequence[Fault], Fault | Sequence[Fault]]] = [
    *((fault, fault) for fault in (
        BitFlip(0.1), BitFlip(1.0), BitFlip(0.0), BitFlip({"conv.*": 0.4, "*": 0.02}),
        StuckAt(0, 0.3), StuckAt(1, 0.3), StuckAt(1, 1.0), ExactFlips(37), ExactFlips(500),
        Burst(3, 0.1), Burst(5, 0.1, within="tensor"), BitFlip(0.3, bits=(7, 0), where="conv.*"),
        [BitFlip(0.2), StuckAt(1, 0.2), ExactFlips(20), Burst(2, 0.2)],
        [BitFlip(1.0), BitFlip(1.0)],
    )),
    (BitFlip(0.5, bits="exponent"), BitFlip(0.5, bits=0x78)),
    (StuckAt(0, 0.5, bits=("sign", 2)), StuckAt(0, 0.5, bits=0x84)),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "in_bytes"), FAULTS, ids=[str(f) for f, _ in FAULTS])
@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.usefixtures("engine")
def test_faults_hit_the_bits_that_bytes_would_be_hit_in(
    fault: Fault | Sequence[Fault], in_bytes: Fault | Sequence[Fault], is_stored: bool
) -> None:
    model = encoded(network(), Float8()) if is_stored else network()
    before, twin = bits_of(model), twin_of(model)
    for trial in range(3):
        with (
            inject(twin, in_bytes, "native", seed=5, trial=trial) as expected,
            inject(model, fault, Float8(), seed=5, trial=trial) as record,
        ):
            for name in TENSORS:
                memory = model.get_parameter(name)
                assert canonical(memory) == decoded(twin, name, torch.float32)
            assert (record.flips, record.ber) == (expected.flips, expected.ber)
            assert record.exposed_bits == expected.exposed_bits
            mine, bytes_ = by_place(record.faults()), by_place(expected.faults())
            assert mine[["tensor", "element", "bit"]].tolist() == (
                bytes_[["tensor", "element", "bit"]].tolist()
            )
            for column in ("before", "after"):
                values = [plain_value(int(word)) for word in bytes_[column]]
                np.testing.assert_array_equal(mine[column], values)
            assert record.counts() == expected.counts()
        assert same_bits(before, model)


def by_place(faults: NDArray[np.void]) -> NDArray[np.void]:
    """Rows ordered by element; those of one element stay in the order of their flips."""
    return faults[np.lexsort((faults["element"], faults["tensor"]))]


@pytest.mark.usefixtures("engine")
def test_a_replay_makes_the_same_flips_again(tmp_path: Path) -> None:
    model = network()
    before = bits_of(model)
    with inject(model, [ExactFlips(41), BitFlip(0.1)], Float8(), seed=7) as record:
        faulty, replay = bits_of(model), record.replay()
    replay.save(tmp_path / "replay.json")
    for again in (replay, Replay.load(tmp_path / "replay.json")):
        with inject(model, again, Float8(), seed=99, trial=5) as second:
            assert same_bits(faulty, model)
            assert second.flips == len(replay.faults)
        assert same_bits(before, model)
    with pytest.raises(
        ValueError, match="encoding e4m3, and the encoding of this injection is float32"
    ):
        inject(model, replay, "float32").__enter__()
    by_hand = Replay((("head.weight", 2, 7), ("head.weight", 2, 0)))  # type: ignore[arg-type]
    with inject(model, by_hand, Float8()):
        assert model.get_parameter("head.weight").flatten()[2].isnan()  # 0x7e becomes 0xff
    with pytest.raises(ValueError, match="bit 8 of element 0"):
        inject(model, Replay((("gain", 0, 8),)), Float8()).__enter__()  # type: ignore[arg-type]


@pytest.mark.usefixtures("engine")
def test_an_injector_takes_what_encode_gave() -> None:
    model = encoded(network(), Float8())
    before = bits_of(model)
    injector = Injector(model, Float8())
    fault = StuckAt(1, 0.25, bits="mantissa")
    assert injector.exposed_bits(fault) == 68 * 3
    with injector.trial(fault, seed=1) as record:
        assert 0 < record.flips <= 68 * 3
    assert same_bits(before, model)
    with pytest.raises(ValueError, match="not rounded to e4m3"):
        Injector(network(), Float8())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=9),
    st.sampled_from([BitFlip(0.4), StuckAt(0, 0.7), ExactFlips(5), Burst(3, 0.2)]),
    st.integers(0, 2**63 - 1),
)
def test_any_memory_is_restored(words: list[int], fault: Fault, seed: int) -> None:
    model = holding(tensor_of(words, torch.float32))
    with inject(model, fault, Float8(), seed=seed) as record:
        assert record.exposed_bits == 8 * len(words)
    assert words_of(weight_of(model)) == words


class Positional(UniformEncoding):
    """Sixteen bits in steps that grow with the element's number: ``elements`` is used."""

    name = "positional"
    bits = 16
    fields = {"sign": 1 << 15}  # noqa: RUF012
    has_nan = False

    def words(self, values: Floats, elements: Words) -> Words:
        grid = np.clip(np.rint(values * 256 / (1 + elements)), -32768, 32767)
        return grid.astype(np.int64).astype(np.uint64) & np.uint64(0xFFFF)

    def values(self, words: Words, elements: Words) -> Floats:
        return words.astype(np.uint16).view(np.int16) * (1 + elements.astype(np.float64)) / 256


@pytest.mark.usefixtures("engine")
def test_words_may_depend_on_the_element() -> None:
    """Also behind the first million elements, which are rounded apart."""
    tensor = torch.full(((1 << 20) + 3,), 3.1)
    model = holding(tensor)
    at = [0, 2, (1 << 20) - 1, (1 << 20) + 1, (1 << 20) + 2]
    sites = tuple(("weight", element, 8) for element in at)
    with inject(model, Replay(sites), Positional()) as record:  # type: ignore[arg-type]
        got = weight_of(model).detach()[at].tolist()
        faults = record.faults()
    step = [Fraction(element + 1, 256) for element in at]
    words = [round(Fraction(tensor[0].item()) / s) for s in step]
    assert got == [float((w ^ 256) * s) for w, s in zip(words, step, strict=True)]
    stored = weight_of(encode(model, Positional()))[at].tolist()
    assert stored == [float(w * s) for w, s in zip(words, step, strict=True)] != tensor[at].tolist()
    assert faults["before"].tolist() == [float(w * s) for w, s in zip(words, step, strict=True)]
    assert torch.equal(weight_of(model), tensor)
    with pytest.raises(ValueError, match="weight holds NaN.*positional"):
        FaultSpace(holding(torch.tensor([math.nan])), Positional())


def test_the_notes_example_works() -> None:
    """proact/faults/README.md."""
    notes = Path(proact.__file__).parent / "faults" / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", notes.read_text(encoding="utf-8"), re.DOTALL)
    generator = torch.Generator().manual_seed(0)
    model = holding(torch.randn(500, 40, generator=generator).clip(-4, 4) / 4)  # 1 is the largest
    before, printed = bits_of(model), io.StringIO()
    names: dict[str, Any] = {"model": model}
    with redirect_stdout(printed):
        exec(code, names)
    assert "weight" in printed.getvalue()
    assert same_bits(before, model)
    own = names["Logarithmic"]()
    stored = encode(model, own)
    assert same_bits(bits_of(stored), encode(stored, own))
    ratio = (weight_of(stored) / weight_of(model))[weight_of(model).abs() > 2**-15]
    assert ratio.log2().abs().max() <= 1 / 16 + 1e-6
    with inject(holding(torch.tensor([1.0])), BitFlip(1.0, bits="sign"), own) as record:
        assert record.faults()["after"].tolist() == [-1.0]
