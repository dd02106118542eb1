"""Are numbers that check bits would destroy refused, and do coded words follow changed values?"""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from conftest import bits_of, same_bits
from proact import protect
from proact.encodings import Coded, UniformEncoding, encoding_named
from proact.encodings.codes.bch import bch
from proact.faults import (
    BitFlip,
    FaultSpace,
    MixedEncoding,
    Replay,
    Where,
    encode,
    encoding_report,
    inject,
)
from proact.nn import weight_range_of


def with_buffer(values: torch.Tensor) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.register_buffer("mask", values)
    return model


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("encoding", ["float32+bch2", "float16+parity", "float32+tmr+range"])
def test_infinity_and_nan_are_refused_by_name(encoding: str, number: float) -> None:
    model = with_buffer(torch.tensor([0.0, number, 1.0]))
    before = bits_of(model)
    with pytest.raises(ValueError, match=r"mask holds NaN or infinity.*'mask': 'native', '\*'"):
        encode(model, encoding)
    with pytest.raises(ValueError, match="mask holds NaN"), inject(model, BitFlip(0), encoding):
        pass
    assert same_bits(before, model)


def test_codes_with_memory_of_their_own_keep_infinity() -> None:
    model = with_buffer(torch.tensor([0.0, -math.inf, 1.0]))
    assert same_bits(bits_of(model), encode(model, "float32+secded64"))
    parts = {"mask": "native", "*": "float32+bch2"}
    assert encode(model, parts).get_buffer("mask")[1].item() == -math.inf


def test_values_that_become_infinite_are_refused() -> None:
    model = with_buffer(torch.tensor([7e4, 1.0]))
    message = r"mask has values out of the range of float16, and the encoding float16\+secded needs"
    with pytest.raises(ValueError, match=message):
        encode(model, "float16+secded")


class Losing(UniformEncoding):
    """Stores 2 as NaN, and other numbers as float32."""

    name, bits = "losing", 32

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor == 2, torch.nan, tensor)

    def words(self, values: Any, elements: Any) -> Any:
        return values.astype("f4").view("u4").astype("u8")

    def values(self, words: Any, elements: Any) -> Any:
        return words.astype("u4").view("f4").astype("f8")


def test_a_new_nan_is_an_infinite_error() -> None:
    model = with_buffer(torch.tensor([1.0, 2.0]))
    report = encoding_report(model, Losing())
    assert {loss.tensor: loss.largest_error for loss in report.tensors}["mask"] == math.inf


@pytest.mark.parametrize(
    ("values", "encoding"),
    [
        (torch.tensor([1, 0, 1] * 4, dtype=torch.int8), "int8+bch2"),
        (torch.arange(12, dtype=torch.int32), "native+secded"),
        (torch.tensor([3], dtype=torch.int8), "int8+secded"),
    ],
)
def test_masks_and_indices_are_refused_and_left_alone(values: torch.Tensor, encoding: str) -> None:
    model = with_buffer(values)
    with pytest.raises(ValueError, match=r"mask holds integers below \d+, of which the encoding"):
        encode(model, encoding)
    others = encode(model, encoding, where=Where(kind=("weight", "bias")))
    assert torch.equal(others.get_buffer("mask"), values)
    parts = {"mask": "native", "*": encoding}
    assert torch.equal(encode(model, parts).get_buffer("mask"), values)


def test_codes_of_ones_own_need_whole_codewords_in_place() -> None:
    own = bch("mine", 6, 1, 32, 2, (0, 1, 2, 32, 33, 34, 35))
    with pytest.raises(ValueError, match="a codeword of mine has 2 words.*weight.*3 elements"):
        encode(nn.Linear(3, 1), Coded("float32", own))
    encode(nn.Linear(4, 2), Coded("float32", own))


@pytest.mark.parametrize(
    "encoding", ["float32+tmr+range", "float32+secded64+range", "float32+secded64"]
)
def test_range_and_replacements_follow_changed_values(encoding: str) -> None:
    torch.manual_seed(0)
    model, fault = nn.Linear(64, 64), BitFlip(1e-2)
    with inject(model, fault, encoding):
        pass
    with torch.no_grad():
        model.weight.mul_(10).add_(5)
    fresh = copy.deepcopy(model)
    with inject(model, fault, encoding) as found, inject(fresh, fault, encoding) as expected:
        assert found.detected == expected.detected
        assert same_bits(bits_of(model), fresh)


def test_a_saturated_number_that_is_corrected_is_not_miscorrected() -> None:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e6, 0.5, 0.25]]))
    with pytest.warns(UserWarning, match="saturated"):
        coded = encode(model, "q15.16+secded")
    with inject(coded, Replay([("weight", 0, 3)]), "q15.16+secded") as record:
        assert (record.corrected, record.detected, record.miscorrected) == (1, 0, 0)
        assert not record.changed
    with inject(coded, Replay([("weight", 0, 3), ("weight", 0, 4)]), "q15.16+secded") as record:
        assert record.detected == 1
        assert coded.weight[0, 0].item() == 0.25  # nearest to 0 of all


def test_a_check_bit_has_one_name() -> None:
    model, encoding = nn.Linear(4, 2, bias=False), "float32+secded64"
    assert "check" in FaultSpace(model, encoding)[0].word.fields
    with inject(model, Replay([("weight", 2, 36)]), encoding) as record:
        assert record.corrected == 1
    with (
        pytest.raises(ValueError, match="bit 36 of element 3 of weight is a check bit.*first, 2"),
        inject(model, Replay([("weight", 3, 36)]), encoding),
    ):
        pass


@pytest.mark.parametrize(
    "encoding", ["int8+bch2", "int8+bch3", "float16+bch3", "bfloat16+bch3", "int4+cep"]
)
def test_bounds_admit_what_they_admitted(encoding: str) -> None:
    for seed in range(15):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10)).eval()
        coded = encode(protect.protect(model, "weight-range"), encoding)
        with torch.no_grad():
            coded(torch.randn(2, 20))
        guard = weight_range_of(coded)
        assert guard is not None
        assert guard.repairs == 0


@pytest.mark.parametrize("name", ["float32+range", "float32+bch2+bch3", "float32+bch2+range+range"])
def test_a_format_is_followed_by_one_code(name: str) -> None:
    with pytest.raises(ValueError, match="a format is followed by one code"):
        encoding_report(nn.Linear(2, 2), name)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("encoding", ["float32+bch2", "float32+tmr", "q15.16"])
def test_sparse_buffers_outside_the_fault_space_do_no_harm(
    encoding: str, layout: torch.layout
) -> None:
    model = with_buffer(torch.eye(3).to_sparse(layout=layout))
    fault = BitFlip(1e-2, where=Where(kind=("weight", "bias")))
    assert FaultSpace(model, encoding, fault.where).whole is None
    with inject(model, fault, encoding):
        pass


def test_a_model_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="Flatten has no parameters or buffers that an encoding"):
        encoding_report(nn.Flatten(), "float32")


RARE = {
    "float8_e4m3fn": torch.linspace(0.5, 2.0, 64).to(torch.float8_e4m3fn),
    "float8_e5m2": torch.linspace(-2.0, 2.0, 64).to(torch.float8_e5m2),
    "float8 with NaN": torch.full((64,), math.nan).to(torch.float8_e4m3fn),
    "uint16": torch.arange(40_000, 40_064).to(torch.uint16),
    "uint32": torch.arange(1 << 20, (1 << 20) + 64).to(torch.uint32),
}


@pytest.mark.parametrize("code", ["secded", "secded64", "tmr", "parity", "bch2", "mset"])
@pytest.mark.parametrize("kind", RARE)
def test_dtypes_that_torch_hardly_computes_with_are_coded_or_refused_by_name(
    kind: str, code: str
) -> None:
    model = nn.Linear(8, 8)
    model.register_buffer("rare", RARE[kind].clone())
    encoding = f"native+{code}"
    with inject(encode(model, encoding, where="weight"), BitFlip(0.1, where="weight"), encoding):
        pass  # a tensor that no fault hits is in nobody's way
    takes_digits = code not in ("tmr", "secded64")
    if code == "mset" or (takes_digits and "NaN" in kind):
        with pytest.raises((TypeError, ValueError), match="rare"):
            encode(model, encoding)
        return
    coded = encode(model, encoding)
    start = bits_of(coded)
    with inject(coded, BitFlip(0.2, where="rare"), encoding) as record:
        assert record.flips
        assert not same_bits(start, coded)
    assert same_bits(start, coded)
    if not takes_digits:
        assert torch.equal(start["rare"], bits_of(model)["rare"])
        with inject(coded, Replay([("rare", 3, 1)]), encoding):
            assert same_bits(start, coded), "one flip is corrected"


@pytest.mark.parametrize("code", ["secded64", "tmr"])
def test_codes_with_memory_of_their_own_keep_masks(code: str) -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("mask", torch.tensor([0, 1, 1, 0], dtype=torch.int32))
    coded = encode(model, f"native+{code}")
    assert torch.equal(coded.get_buffer("mask"), model.get_buffer("mask"))


@pytest.mark.parametrize("encoding", ["float32", "native", "int8", "q15.16", "native+tmr"])
def test_advice_for_complex_numbers_names_no_encoding_that_refuses_them(encoding: str) -> None:
    model = nn.Linear(2, 2)
    model.spectrum = nn.Parameter(torch.ones(3, 3, dtype=torch.complex64))
    with pytest.raises(TypeError, match="spectrum is torch.complex64: exclude .*view_as_real") as e:
        inject(model, BitFlip(0.1), encoding).__enter__()
    assert "native for" not in str(e.value)


@pytest.mark.parametrize("coded", ["float32+bch2", "int8+secded64"])
def test_a_coded_encoding_takes_no_second_code(coded: str) -> None:
    with pytest.raises(ValueError, match=rf"an encoding without a code, got '{re.escape(coded)}'"):
        Coded(encoding_named(coded), "secded64")
    mixed = MixedEncoding([("*.bias", coded), ("*", "float32")])
    with pytest.raises(ValueError, match="an encoding without a code, got"):
        Coded(mixed, "tmr")
