"""Coded encodings: rounding, usable words in place, stored bits, fields, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from encoding_oracle import holding, weight_of, words_of
from numpy.typing import NDArray
from torch import Tensor, nn

from conftest import SignedMagnitude, bits_of, same_bits
from proact.encodings import Code, Coded, Decoded, encoding_named
from proact.encodings.coded_word import CodedWord
from proact.encodings.codes import CODE_NAMES, code_named
from proact.encodings.scaled_words import ScaledWord
from proact.faults import BitFlip, FaultSpace, Injector, encode, encoding_report, inject
from proact.faults.exposed_tensor import ExposedTensor

FORMATS = {
    "float32": torch.float32,
    "float16": torch.float32,
    "bfloat16": torch.float32,
    "float64": torch.float64,
    "q15.16": torch.float32,
    "q7.8": torch.float32,
    "q3.4": torch.float32,
    "int8": torch.float32,
    "int8-tensor": torch.float32,
    "native": torch.bfloat16,
}
WIDTHS = {"float64": 64, "float32": 32, "q15.16": 32, "q3.4": 8}


def fits(name: str, code: str) -> bool:
    """Scaled integers keep float32 words for biases, so the code must fit 8 and 32 bits."""
    widths = [8, 32] if name.startswith("int8") else [WIDTHS.get(name, 16)]
    if code == "mset" and name.startswith(("q", "int8")):
        return False
    try:
        for width in widths:
            code_named(code, width)
    except ValueError:
        return False
    return True


CODED = [(name, code) for name in FORMATS for code in CODE_NAMES if fits(name, code)]


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Linear(9, 5))
    model.register_parameter("gain", nn.Parameter(torch.tensor([0.7])))
    return model.to(dtype)


def coded_word(exposed: ExposedTensor) -> CodedWord:
    assert isinstance(exposed.word, CodedWord)
    return exposed.word


@pytest.mark.parametrize(("name", "code"), CODED)
def test_rounding_twice_is_rounding_once(name: str, code: str) -> None:
    model, encoding = network(FORMATS[name]), f"{name}+{code}"
    before = bits_of(model)
    once = encode(model, encoding)
    assert same_bits(before, model)
    assert same_bits(bits_of(once), encode(once, encoding))
    Injector(once, encoding)  # refuses a model that is not rounded
    for exposed in FaultSpace(once, encoding):
        word, tensor = coded_word(exposed), exposed.tensor
        elements = np.arange(tensor.numel(), dtype=np.uint64)
        memory = np.array(words_of(tensor), np.uint64)
        words = word.words_in(memory, tensor.dtype, elements)
        stored, _ = word.encoded(words, 0)
        np.testing.assert_array_equal(word.as_read(stored, 0), words)
        np.testing.assert_array_equal(word.memory_of(words, tensor.dtype, elements), memory)
    assert not any(loss.saturated for loss in encoding_report(once, encoding).tensors)


@pytest.mark.parametrize(
    ("code", "payload", "change"), [("secded", 26, 17), ("bch2", 21, 12), ("bch3", 16, 7)]
)
def test_coded_floats_are_usable_floats(code: str, payload: int, change: int) -> None:
    """The check bits of a float32 are its lowest ones: they change it by less than 2^-change."""
    values = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    stored = weight_of(encode(holding(values), f"float32+{code}")).detach()
    assert ((stored - values).abs() < values.abs() * 2.0**-change).all()
    low = np.uint32((1 << (32 - payload)) - 1)
    ours, theirs = stored.numpy().view(np.uint32), values.numpy().view(np.uint32)
    np.testing.assert_array_equal(ours & ~low, theirs & ~low)
    assert (ours != theirs).any()


@pytest.mark.parametrize(
    ("name", "code", "per_parameter"),
    [
        ("float32", "secded", 32), ("float32", "bch2", 32), ("float32", "bch3", 32),
        ("float32", "parity", 32), ("float32", "mset", 32), ("float32", "cep", 32),
        ("float32", "secded32", 39), ("float32", "secded64", 36), ("float32", "tmr", 96),
        ("bfloat16", "bch2", 16), ("float16", "secded64", 18), ("q15.16", "secded32", 39),
        ("q3.4", "secded", 8), ("q3.4", "secded64", 9), ("float64", "secded64", 72),
    ],
)  # fmt: skip
def test_stored_bits_of_a_parameter(name: str, code: str, per_parameter: int) -> None:
    values = torch.linspace(-1, 1, 64, dtype=FORMATS[name])
    space = FaultSpace(holding(values), f"{name}+{code}")
    assert space.bits == space.whole == 64 * per_parameter
    (exposed,) = space
    assert sum(exposed.words_with(bit) for bit in exposed.bit_numbers) == space.bits


def test_the_last_check_word_serves_fewer_words() -> None:
    (exposed,) = FaultSpace(holding(torch.ones(13)), "q3.4+secded64")
    assert exposed.bits == 13 * 8 + 2 * 8
    assert exposed.words_per_check == 8
    assert coded_word(exposed).check_words == 2


@pytest.mark.parametrize(
    ("encoding", "fields"),
    [
        ("float32", {"sign": 1 << 31, "exponent": 0xFF << 23, "mantissa": 0x7FFFFF}),
        (
            "float32+bch2",
            {"sign": 1 << 31, "exponent": 0xFF << 23, "mantissa": 0x7FF800, "check": 0x7FF},
        ),
        (
            "float32+tmr",
            {
                "sign": 1 << 31,
                "exponent": 0xFF << 23,
                "mantissa": 0x7FFFFF,
                "check": ((1 << 64) - 1) << 32,
            },
        ),
        (
            "float32+mset",
            {"sign": 1 << 31, "exponent": 0xFF << 23, "mantissa": 0x7FFFFC, "check": 3},
        ),
        (
            "bfloat16+secded64",
            {"sign": 1 << 15, "exponent": 0x7F80, "mantissa": 0x7F, "check": 0xFF << 16},
        ),
        (
            "q15.16+bch2",
            {"sign": 1 << 31, "integer": 15 << 16, "fraction": 0xFFFF, "check": 0x7FF << 20},
        ),
    ],
)
def test_fields(encoding: str, fields: dict[str, int]) -> None:
    """Check bits of fixed point take integer bits that no value needs: |x| < 16 needs four."""
    (exposed,) = FaultSpace(holding(torch.tensor([-3.5, 9.0])), encoding)
    assert dict(exposed.word.fields) == fields
    assert sum(fields.values()) == exposed.word.all_bits
    for name, mask in fields.items():
        assert FaultSpace(holding(torch.ones(2) * 9), encoding, bits=name)[0].mask == mask


@pytest.mark.parametrize(("largest", "low"), [(0.9, 0), (9.0, 0), (200.0, 4), (32767.0, 11)])
def test_check_bits_take_no_integer_bit_that_a_value_needs(largest: float, low: int) -> None:
    """bch2 takes 11 bits: the integer bits that are free, then the lowest bits of the fraction."""
    values = torch.tensor([largest, -largest, largest / 3])
    model = holding(values)
    (exposed,) = FaultSpace(model, "q15.16+bch2")
    check = exposed.word.fields["check"]
    assert check & 0xFFFF == (1 << low) - 1
    assert check.bit_count() == 11
    stored = weight_of(encode(model, "q15.16+bch2"))
    assert (stored - values).abs().max() <= 2.0 ** (low - 17) + 2.0**-24 * largest


@pytest.mark.parametrize("encoding", ["int8+secded", "int8-tensor+secded", "int8+bch2"])
def test_scaled_integers_have_scales_that_their_payload_can_represent(encoding: str) -> None:
    torch.manual_seed(2)
    model = nn.Linear(24, 10, bias=False)
    stored = encode(model, encoding)
    (exposed,) = FaultSpace(stored, encoding)
    step = 2 * 2 if encoding.endswith("bch2") else 2
    word = coded_word(exposed).format
    assert isinstance(word, ScaledWord)
    scales = torch.from_numpy(word.scales).view(-1, 1)
    error = (weight_of(stored) - weight_of(model)).abs()
    assert (error <= step * scales / 2 * 1.001).all()
    (report,) = encoding_report(model, encoding).tensors
    assert report.saturated == 0


def test_a_tensor_without_zero_in_its_range_has_its_nearest_value_as_replacement() -> None:
    for values, expected in (([2.0, 3.0], 2.0), ([-5.0, -4.0], -4.0), ([-1.0, 2.0], 0.0)):
        (exposed,) = FaultSpace(holding(torch.tensor(values)), "q15.16+secded32")
        assert coded_word(exposed).replacement == expected


@pytest.mark.parametrize("code", ["bch2", "secded"])
def test_native_integers_hold_check_bits_in_their_lowest_bits(code: str) -> None:
    tensor = torch.arange(-60, 60, dtype=torch.int8)
    model = holding(tensor)
    stored = encode(model, f"native+{code}").get_buffer("weight")
    (exposed,) = FaultSpace(encode(model, f"native+{code}"), f"native+{code}")
    payloads = np.tile(coded_word(exposed).fitted.code.payloads, 15).astype(np.uint8)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(
        stored.numpy().view(np.uint8) & payloads, tensor.numpy().view(np.uint8) & payloads
    )


def test_formats_of_your_own_keep_their_payload_bits() -> None:
    """Their words need not be numbers in two's complement: a reader sees the check bits."""
    values = torch.tensor([-7.9375, -1.0, -0.0625, 0.0, 0.0625, 1.0, 7.9375, 3.0, -2.5])
    encoding = Coded(SignedMagnitude(), "secded")
    model = encode(holding(values), encoding)
    stored = weight_of(model)
    assert (stored.sign() * values.sign() >= 0).all()
    assert (stored - values).abs().max() <= 15 / 16  # four check bits in the single word
    assert (stored - values)[:8].abs().max() <= 1 / 16  # at most one of them in the others
    assert same_bits(bits_of(model), encode(model, encoding))


def test_memory_of_activations_has_no_code() -> None:
    tensor = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for name in ("float32", "q15.16", "int8"):
        coded = encoding_named(f"{name}+secded32").activation_word("relu", tensor, None)
        plain = encoding_named(name).activation_word("relu", tensor, None)
        assert (coded.name, coded.bits) == (plain.name, plain.bits)


def test_equal_names_make_equal_encodings() -> None:
    assert encoding_named("float32+bch2") == Coded("float32", "bch2") != encoding_named("float32")
    assert hash(encoding_named("float32+bch2")) == hash(Coded("float32", "bch2"))
    assert repr(encoding_named("int8+secded")) == "<encoding int8+secded>"
    assert encoding_named("int8+secded").is_coded
    assert not encoding_named("int8").is_coded


def ones(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(3, dtype=dtype)


@pytest.mark.parametrize(
    ("encoding", "values", "words"),
    [
        ("float32+bch4", ones(), "'bch4'"),
        ("float32+", ones(), "got ''"),
        ("flot32+bch2", ones(), "got 'flot32.bch2'"),
        ("float64+cep", ones(torch.float64), "the code cep fits .* got words of 64 bits"),
        ("float64+tmr", ones(torch.float64), "the code tmr fits .* got words of 64 bits"),
        ("q3.8+bch2", ones(), "the code bch2 fits words of 8, 16, 32 or 64 bits, got .* 12"),
        (
            "q15.16+mset",
            ones(),
            "mset fits float16, bfloat16, float32 and float64, and weight .* q15.16",
        ),
    ],
)
def test_bad_input_is_named_and_changes_nothing(encoding: str, values: Tensor, words: str) -> None:
    model = holding(values)
    before = bits_of(model)
    with pytest.raises(ValueError, match=words) as error:
        inject(model, BitFlip(0.1), encoding).__enter__()
    assert "\n" not in str(error.value)
    assert same_bits(before, model)


def test_a_code_of_ones_own_cannot_take_the_name_of_a_built_in_one() -> None:
    class Parity(Code):
        name = "parity"
        word_bits = 32
        check_bits = 1

        def encode(self, words: NDArray[np.uint64]) -> Any:
            return words, words[:, 0] & np.uint64(1)

        def decode(self, words: NDArray[np.uint64], check: NDArray[np.uint64]) -> Any:
            return Decoded(words, check != words[:, 0] & np.uint64(1))

    with pytest.raises(ValueError, match=r"parity is the name of a code of proact: give Parity"):
        Coded("float32", Parity())
