"""Do floats of up to 16 bits mean what their standards and torch say?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from encoding_oracle import SMALL
from torch import Tensor, nn

from proact import campaign
from proact.encodings import FloatFormat, encoding_named
from proact.encodings.small_floats import small_float_named
from proact.faults import ActivationFlip, BitFlip, ExactFlips, FaultSpace, encode, inject

DTYPES = {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
NOWHERE = np.zeros(0, np.uint64)


def named(name: str) -> FloatFormat:
    found = small_float_named(name)
    assert found is not None
    return found


def all_words(form: FloatFormat) -> np.ndarray:
    return np.arange(1 << form.bits, dtype=np.uint64)


@pytest.mark.parametrize("name", SMALL)
def test_every_word_means_what_the_oracle_says(name: str) -> None:
    form, oracle = named(name), SMALL[name]
    words = all_words(form)
    values = form.values(words, NOWHERE)
    expected = [float(oracle.value(int(word))) for word in words]
    assert np.array_equal(values, expected, equal_nan=True)
    assert np.array_equal(np.signbit(values), words >= 1 << (form.bits - 1))
    numbers = ~np.isnan(values)
    assert np.array_equal(form.words(values, NOWHERE)[numbers], words[numbers])


@pytest.mark.parametrize("name", DTYPES)
def test_words_and_rounding_are_those_of_torch(name: str) -> None:
    form, dtype = named(name), DTYPES[name]
    theirs = torch.arange(256, dtype=torch.uint8).view(dtype).double().numpy()
    assert np.array_equal(form.values(all_words(form), NOWHERE), theirs, equal_nan=True)
    generator = torch.Generator().manual_seed(0)
    spread = 10.0 ** (torch.rand(50_000, generator=generator) * 9 - 6)
    values = torch.randn(50_000, generator=generator) * spread
    # Both values of every tie, and their neighbours.
    edges = torch.from_numpy(theirs[np.isfinite(theirs)]).sort().values
    ties = ((edges[1:] + edges[:-1]) / 2).float()
    up, down = torch.tensor(math.inf), torch.tensor(-math.inf)
    near = torch.cat([ties, torch.nextafter(ties, up), torch.nextafter(ties, down)])
    # torch makes NaN of what the format cannot hold; here it saturates.
    given = torch.cat([values, near]).clamp(-form.largest, form.largest)
    assert torch.equal(form.rounded(given), given.to(dtype).float())


def test_the_formats_of_the_open_compute_project() -> None:
    """Largest and smallest values of OCP OFP8 1.0, table 2, and OCP MX 1.0, tables 2 to 4."""
    largest = {"float8_e4m3": 448.0, "float8_e5m2": 57344.0, "e3m2": 28.0, "e2m3": 7.5, "e2m1": 6.0}
    one = np.ones(1, np.uint64)
    smallest = {name: float(named(name).values(one, NOWHERE)[0]) for name in largest}
    assert {name: named(name).largest for name in largest} == largest
    assert smallest == {
        "float8_e4m3": 2.0**-9,
        "float8_e5m2": 2.0**-16,
        "e3m2": 2.0**-4,
        "e2m3": 2.0**-3,
        "e2m1": 0.5,
    }


def test_float16_and_bfloat16_are_two_of_them() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 1e-4
    for name, dtype in (("e5m10", torch.float16), ("e8m7", torch.bfloat16)):
        assert torch.equal(named(name).rounded(values), values.to(dtype).float())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((4, 3), "float8_e4m3"),
        ((4, 3, 7, False, True), "float8_e4m3"),
        ((5, 2), "float8_e5m2"),
        ((3, 2), "e3m2"),
        ((4, 3, 8), "e4m3b8"),
        ((4, 3, None, True, True), "e4m3i"),
        ((5, 2, None, False, True), "e5m2n"),
        ((3, 4, -2, False, False), "e3m4b-2f"),
        ((3, 2, None, False, True), "e3m2n"),
        ((3, 0), "e3m0"),
    ],
)
def test_names_tell_formats_apart(options: tuple[Any, ...], name: str) -> None:
    form = FloatFormat(*options)
    assert form.name == name
    again = encoding_named(name)
    assert again == form
    assert isinstance(again, FloatFormat)
    assert np.array_equal(
        again.values(all_words(form), NOWHERE),
        form.values(all_words(form), NOWHERE),
        equal_nan=True,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponent": 0, "mantissa": 3}, "1 to 8 exponent bits .* got exponent=0"),
        ({"exponent": 9, "mantissa": 3}, "got exponent=9"),
        ({"exponent": 1, "mantissa": 0}, "3 to 16 bits"),
        ({"exponent": 8, "mantissa": 8}, "3 to 16 bits"),
        ({"exponent": 4, "mantissa": -1}, "got exponent=4 and mantissa=-1"),
        ({"exponent": 4.0, "mantissa": 3}, "exponent must be an integer, got 4.0"),
        ({"exponent": 4, "mantissa": 3, "bias": 1.5}, "bias must be an integer, got 1.5"),
        ({"exponent": 4, "mantissa": 3, "has_nan": 1}, "has_nan must be True or False, got 1"),
        (
            {"exponent": 4, "mantissa": 3, "has_inf": True, "has_nan": False},
            "has NaN and a mantissa",
        ),
        ({"exponent": 4, "mantissa": 0, "has_inf": True}, "a mantissa bit"),
        ({"exponent": 5, "mantissa": 2, "has_nan": False}, "got has_inf=None, has_nan=False"),
        ({"exponent": 8, "mantissa": 3, "bias": 300}, "must be values of float32"),
        ({"exponent": 4, "mantissa": 3, "bias": 399}, "must be values of float32"),
        ({"exponent": 4, "mantissa": 3, "bias": -399}, "must be values of float32"),
        ({"exponent": 4, "mantissa": 3, "bias": 10**30}, r"bias lies in \[-400, 400\]"),
        ({"exponent": 8, "mantissa": 3, "has_inf": False}, "must be values of float32"),
    ],
)
def test_other_formats_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        FloatFormat(**options)


@pytest.mark.parametrize("name", ["float8_e4m4", "e4m3x", "fp8", "e44m3", "float8"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"an encoding is one of|exponent bits"):
        encoding_named(name)
    if name == "float8_e4m4":
        with pytest.raises(ValueError, match="did you mean 'float8_e4m3'"):
            encoding_named(name)


@pytest.mark.parametrize("name", ["e3m2", "e2m1", "e4m3f"])
def test_formats_without_nan_do_not_store_it(name: str) -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[0, 1] = math.nan
    with pytest.raises(ValueError, match=f"weight holds NaN, which the encoding {name} cannot"):
        encode(model, name)


def test_infinity_saturates_without_a_word_for_it() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[math.inf, -1e30]]))
    with pytest.warns(UserWarning, match="2 of 2 numbers are out of the range of float8_e4m3"):
        stored = encode(model, "float8_e4m3")
    assert stored.weight.tolist() == [[448.0, -448.0]]
    with pytest.warns(UserWarning, match="1 of 2 numbers"):
        stored = encode(model, "float8_e5m2")
    assert stored.weight.tolist() == [[math.inf, -math.inf]]


def test_activations_are_faulted_in_them() -> None:
    layer = nn.Sequential(nn.Linear(4, 4, bias=False))
    nn.init.eye_(layer[0].weight)
    given = torch.tensor([[1.0, -0.3, 500.0, 0.07]])
    for name in ("float8_e4m3", "float8_e5m2", "e2m1"):
        form = named(name)
        fault = ActivationFlip(1.0, bits="sign", encoding=name)
        with inject(layer, fault, seed=0):
            assert torch.equal(layer(given), -form.rounded(given))


CODED = [
    *("float8_e4m3+tmr", "float8_e4m3+secded64", "float8_e4m3+secded", "float8_e4m3+parity"),
    *("float8_e5m2+secded", "float8_e5m2+bch2", "e5m10+secded", "e5m10+bch2", "e3m2+tmr"),
]


@pytest.mark.parametrize("encoding", CODED)
def test_codes_correct_flips_in_them(encoding: str) -> None:
    model = nn.Linear(16, 4, bias=False)
    nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(4))
    stored = encode(model, encoding)
    assert torch.isfinite(stored.weight).all()
    assert torch.equal(encode(stored, encoding).weight, stored.weight)
    clean = stored.weight.detach().clone()
    # Codes in place change the lowest bits.
    form = named(encoding.partition("+")[0])
    word = FaultSpace(stored, encoding)[0].word
    change = 2 ** (word.fields["check"] & form.all_bits).bit_count() - 1
    before = form.words(form.rounded(model.weight.detach()).double().numpy(), NOWHERE)
    after = form.words(clean.double().numpy(), NOWHERE)
    assert np.abs(before.astype(np.int64) - after.astype(np.int64)).max() <= change
    for trial in range(40):
        with inject(stored, ExactFlips(1), encoding, seed=5, trial=trial):
            if "parity" not in encoding:
                assert torch.equal(stored.weight, clean)
            else:
                assert int((stored.weight != clean).sum()) <= 1
        assert torch.equal(stored.weight, clean)


@pytest.mark.parametrize(
    ("encoding", "value", "message"),
    [
        (
            "float8_e4m3+parity",
            -448.0,
            r"holds 448, whose word with check bits of .*parity can mean",
        ),
        ("float8_e4m3+secded", 500.0, "values out of the range of float8_e4m3"),
        ("float8_e5m2+bch3", 1.0, "bch3 takes up to 3 low bits .* float8_e5m2 has 2 mantissa bits"),
        ("e3m0+parity", 1.0, "parity takes up to 1 low bits .* e3m0 has 0 mantissa bits"),
        ("e5m10+mset", 1.0, "mset fits float16, bfloat16, float32 and float64"),
        ("float8_e5m2+secded", math.inf, "holds NaN or infinity"),
    ],
)
def test_codes_that_would_destroy_numbers_are_refused(
    encoding: str, value: float, message: str
) -> None:
    model = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        model.weight[1, 2] = value
    with pytest.raises(ValueError, match=message):
        encode(model, encoding)


def test_words_after_the_last_full_codeword_keep_their_exponents() -> None:
    """The last 63 % 8 words are coded one by one, which takes more bits of each."""
    model = nn.Linear(9, 7, bias=False)
    with pytest.raises(ValueError, match="secded takes up to 4 low bits of the words of weight"):
        encode(model, "float8_e4m3+secded")
    encode(nn.Linear(8, 7, bias=False), "float8_e4m3+secded")


def test_nan_without_a_mantissa_is_the_word_of_ones() -> None:
    form = FloatFormat(3, 0, has_inf=False, has_nan=True)
    given = torch.tensor([1.0, math.nan, -math.nan, 100.0])
    assert form.words(given.double().numpy(), NOWHERE).tolist() == [3, 7, 15, 6]
    assert torch.equal(form.rounded(given).isnan(), given.isnan())


class Float8Linear(nn.Module):
    """A layer that stores its weight as a float8, with a scale for each output channel."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        scale = weight.abs().amax(1, keepdim=True) / torch.finfo(dtype).max
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter((weight / scale).to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.float() * self.get_buffer("scale")).T


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("encoding", ["native", "own"])
def test_models_in_float8_are_faulted_in_their_own_words(name: str, encoding: str) -> None:
    dtype = DTYPES[name]
    generator = torch.Generator().manual_seed(2)
    model = Float8Linear(torch.randn(10, 16, generator=generator), dtype).eval()
    stored = {"weight": name, "*": "float32"} if encoding == "own" else "native"
    assert [(e.name, e.word.name, e.bits) for e in FaultSpace(model, stored)] == [
        ("weight", name, 8 * 160),
        ("scale", "float32", 32 * 10),
    ]
    before = model.weight.view(torch.uint8).clone()
    fault = ExactFlips(5, where="weight", bits="exponent")
    with inject(model, fault, stored, seed=3) as record:
        changed = model.weight.view(torch.uint8) ^ before
        assert sum(int(word).bit_count() for word in changed.flatten().tolist()) == 5
        for found in record.faults():
            word = int(before.flatten()[found["element"]])
            oracle = SMALL[name]
            assert found["before"] == oracle.value(word)
            assert found["after"] == pytest.approx(
                float(oracle.value(word ^ 1 << int(found["bit"]))), nan_ok=True
            )
    assert torch.equal(model.weight.view(torch.uint8), before)
    images = torch.randn(100, 16, generator=generator)
    data = images, model(images).argmax(1)
    faults = [BitFlip(2e-2, where=where) for where in ("weight", "scale")]
    result = campaign.run({"m": model}, data, faults, encoding="native", trials=20, executor=1)
    assert result.clean == {"m": 1.0}
    assert all(cell.accuracy.estimate < 1.0 for cell in result.cells)


def test_other_float8_dtypes_are_refused() -> None:
    model = Float8Linear(torch.randn(4, 4), torch.float8_e4m3fnuz)
    with pytest.raises(TypeError, match=r"weight is torch\.float8_e4m3fnuz"):
        FaultSpace(model, "native")
    with pytest.raises(TypeError, match="float8_e5m2 takes float32 or float64, and weight is"):
        FaultSpace(Float8Linear(torch.randn(4, 4), torch.float8_e4m3fn), "float8_e5m2")
