"""Are the rates of residual errors exact? Compared with closed forms and with every error."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from code_cases import CODES, EXTENDED, flipped, length_of, ones, random_words, weight_distribution

from proact.encodings import Coded, Decoded, ResidualRates, residual_rates
from proact.encodings.codes import Code, LinearCode
from proact.encodings.codes.base import Words
from proact.encodings.codes.bch import bch
from proact.encodings.codes.in_place import cep, mset, parity

RATES = [1e-9, 1e-4, 1e-2, 0.3, 0.5, 0.9]


@pytest.mark.parametrize("ber", RATES)
@pytest.mark.parametrize("name", ["secded-32", "bch2-32", "bch3-32", "secded32-32", "secded64-64"])
def test_bounded_distance_decoding(name: str, ber: float) -> None:
    """MacWilliams and Sloane: errors within the distance t of another codeword are silent."""
    code, p = EXTENDED[name], Fraction(ber)
    n, t = length_of(code), code.corrects

    def of_weight(w: int) -> Fraction:
        return p**w * (1 - p) ** (n - w)

    corrected = sum(comb(n, w) * of_weight(w) for w in range(1, t + 1))
    silent = Fraction(0)
    for w, codewords in enumerate(weight_distribution(code)):
        if w == 0 or not codewords:
            continue
        for removed in range(t + 1):
            for added in range(t + 1 - removed):
                patterns = comb(w, removed) * comb(n - w, added) if w >= removed else 0
                silent += codewords * patterns * of_weight(w - removed + added)
    detected = 1 - of_weight(0) - corrected - silent
    found = residual_rates(code, ber)
    assert found.corrected == pytest.approx(float(corrected), rel=1e-12)
    assert found.miscorrected == pytest.approx(float(silent), rel=1e-12)
    assert found.detected == pytest.approx(float(detected), rel=1e-12)
    if code.words == 1:
        assert found.lost_parameters == pytest.approx(float(silent + detected), rel=1e-12)


@pytest.mark.parametrize("ber", RATES)
@pytest.mark.parametrize("width", [16, 32])
def test_closed_forms(width: int, ber: float) -> None:
    p = Fraction(ber)
    none = (1 - p) ** width

    found = residual_rates(parity(width), ber)
    odd = (1 - (1 - 2 * p) ** width) / 2
    expected = (0.0, odd, 1 - none - odd)
    assert as_tuple(found) == approx(expected)

    majority_wrong = 3 * p**2 * (1 - p) + p**3
    others_right = (1 - p) ** (width - 3)
    one_of_three = 3 * p * (1 - p) ** 2
    wrong = 1 - others_right * (1 - majority_wrong)
    assert as_tuple(residual_rates(mset(width), ber)) == approx(
        (others_right * one_of_three, 0.0, wrong)
    )

    even = (1 + (1 - 2 * p) ** 4) / 2
    no_odd_chunk = even ** (width // 4)
    assert as_tuple(residual_rates(cep(width), ber)) == approx(
        (0.0, 1 - no_odd_chunk, no_odd_chunk - none)
    )


def as_tuple(rates: ResidualRates) -> tuple[float, float, float]:
    return rates.corrected, rates.detected, rates.miscorrected


def approx(values: tuple[float | Fraction, ...]) -> object:
    return pytest.approx(tuple(map(float, values)), rel=1e-12, abs=0.0)


def small_code() -> LinearCode:
    """Four words of four bits; the first word has two of the five check bits."""
    return bch("small", 4, 1, 4, 4, (0, 1, 4, 8, 12))


ENUMERATED: dict[str, Code] = {
    "secded-8-rest": CODES["secded-8-rest"],
    "secded-16": CODES["secded-16"],
    "cep-16": CODES["cep-16"],
    "mset-16": CODES["mset-16"],
    "parity-8": CODES["parity-8"],
    "small": small_code(),
    "secded32-8": bch("checked", 4, 1, 4, 2),
}


@pytest.mark.parametrize("ber", [1e-3, 0.2, 0.6])
@pytest.mark.parametrize("name", ENUMERATED)
def test_every_error_of_a_short_code(name: str, ber: float) -> None:
    code = ENUMERATED[name]
    assert isinstance(code, LinearCode)
    n = length_of(code)
    errors = np.arange(1 << n, dtype=np.uint64)
    stored, check = code.encode(np.repeat(random_words(code, 1), 1 << n, axis=0))
    end = np.uint64(code.word_bits * code.words)
    decoded = code.decode(
        stored ^ code.unpacked(errors & ((np.uint64(1) << end) - np.uint64(1))),
        check ^ (errors >> end),
    )
    masks = np.array(code.payloads, np.uint64)
    wrong = ((decoded.words ^ stored) & masks) != 0
    weights = ones(errors)
    chance = ber**weights * (1 - ber) ** (n - weights)
    silent, detected = wrong.any(axis=1) & ~decoded.detected, decoded.detected
    right = ~silent & ~detected & (errors > 0)
    lost = (wrong | detected[:, None]).mean(axis=1)
    found = residual_rates(code, ber)
    expected = (chance[right].sum(), chance[detected].sum(), chance[silent].sum())
    assert as_tuple(found) == pytest.approx(expected, rel=1e-9)
    assert found.lost_parameters == pytest.approx((chance * lost).sum(), rel=1e-9)


@pytest.mark.parametrize("ber", [1e-3, 0.1])
def test_tmr(ber: float) -> None:
    """A bit is read right if at most one of its three copies flips."""
    p = Fraction(ber)
    right = ((1 - p) ** 3 + 3 * p * (1 - p) ** 2) ** 8
    found = residual_rates("q3.4+tmr", ber)
    assert as_tuple(found) == approx((right - (1 - p) ** 24, 0.0, 1 - right))
    assert found.lost_parameters == found.miscorrected


@pytest.mark.parametrize("name", CODES)
def test_no_flip_and_all_flips(name: str) -> None:
    code = CODES[name]
    assert as_tuple(residual_rates(code, 0.0)) == (0.0, 0.0, 0.0)
    every = np.arange(length_of(code))[None]
    stored, check = code.encode(random_words(code, 1))
    decoded = code.decode(*flipped(code, stored, check, every))
    is_right = (decoded.words == stored).all()
    found = residual_rates(code, 1.0)
    outcome = (1.0 if is_right and not decoded.detected[0] else 0.0, float(decoded.detected[0]))
    assert (found.corrected, found.detected) == outcome
    assert sum(as_tuple(found)) == 1.0


def test_floats_lose_check_bits_too() -> None:
    """A reader of floats takes check bits in place as part of the number; one of integers not."""
    whole, payload = residual_rates("float16+bch2", 0.01), residual_rates("q7.8+bch2", 0.01)
    assert as_tuple(whole) == as_tuple(payload)
    assert payload.lost_parameters < whole.lost_parameters < whole.detected + whole.miscorrected


def test_encodings_give_the_rates_of_their_codes() -> None:
    assert residual_rates("float32+bch2", 1e-3) == residual_rates(EXTENDED["bch2-32"], 1e-3)
    assert residual_rates("int8+secded", 1e-3) == residual_rates(EXTENDED["secded-8"], 1e-3)
    assert residual_rates(Coded("q15.16", "secded32"), 1e-3) == residual_rates(
        EXTENDED["secded32-32"], 1e-3
    )
    assert residual_rates("float64+bch2", 1e-3).corrected == pytest.approx(
        residual_rates(EXTENDED["bch2-64"], 1e-3).corrected
    )


class Copy(Code):
    name = "copy"
    word_bits = 32
    check_bits = 32

    def encode(self, words: Words) -> tuple[Words, Words]:
        return words, words[:, 0].copy()

    def decode(self, words: Words, check: Words) -> Decoded:
        return Decoded(words, words[:, 0] != check)


@pytest.mark.parametrize(
    ("code", "ber", "words"),
    [
        ("float32", 0.1, "float32 has no code: add one, as in float32.bch2"),
        ("native+bch2", 0.1, "depend on the dtype of each tensor"),
        ("float32+bch2+range", 0.1, "depend on the numbers of the model"),
        ("float32+bch9", 0.1, "'bch9'"),
        ("float32+bch2", 1.5, "1.5"),
        (Coded("float32", Copy()), 0.1, "the code copy are not known by formula"),
    ],
)
def test_bad_input_is_named(code: str, ber: float, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        residual_rates(code, ber)
    assert "\n" not in str(error.value)
