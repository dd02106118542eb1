"""Are the codes the ones that their names promise? Distances are proved by enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from code_cases import (
    CODES,
    EXTENDED,
    LINEAR,
    WIDTHS,
    columns_of,
    error_places,
    flipped,
    length_of,
    ones,
    random_words,
    weight_distribution,
)

from proact.encodings import Coded
from proact.encodings.codes import CODE_NAMES, Code, LinearCode, code_named
from proact.encodings.codes.bch import bch, check_bits_of, generator_polynomial
from proact.encodings.codes.linear import error_patterns

DISTANCES = {"secded": 4, "bch2": 6, "bch3": 8, "secded32": 4, "secded64": 4, "parity": 2}
DISTANCES |= {"mset": 1, "cep": 2}

#: In octal, highest coefficient first: S. Lin and D. J. Costello, "Error Control Coding", table 6.1
#: and the table of primitive polynomials.
GENERATORS = {
    (3, 1): 0o13,
    (4, 1): 0o23,
    (4, 2): 0o721,
    (4, 3): 0o2467,
    (5, 1): 0o45,
    (5, 2): 0o3551,
    (5, 3): 0o107657,
    (6, 1): 0o103,
    (6, 2): 0o12471,
    (6, 3): 0o1701317,
    (7, 1): 0o211,
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_minimum_distance_is_the_promised_one(name: str) -> None:
    code = LINEAR[name]
    counts = weight_distribution(code)
    rows = len(code.check_places) + code.check_bits
    assert counts[0] == 1
    assert sum(counts) == 1 << (length_of(code) - rows)
    assert next(w for w in range(1, len(counts)) if counts[w]) == DISTANCES[code.name]
    if code.corrects:
        assert DISTANCES[code.name] == 2 * code.corrects + 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("secded-8-rest", {0: 1, 4: 14, 8: 1}),
        ("secded-16", {0: 1, 4: 140, 6: 448, 8: 870, 10: 448, 12: 140, 16: 1}),
        ("secded-32", {0: 1, 4: 1240}),
        ("secded-8", {0: 1, 4: 10416}),
        ("bch3-32", {0: 1, 8: 620, 12: 13888, 16: 36518, 20: 13888, 24: 620, 32: 1}),
    ],
)
def test_published_weight_distributions(name: str, expected: dict[int, int]) -> None:
    """F. J. MacWilliams and N. J. A. Sloane, "The Theory of Error-Correcting Codes", 1977."""
    counts = weight_distribution(LINEAR[name])
    assert {w: counts[w] for w in range(max(expected) + 1) if counts[w]} == expected


@pytest.mark.parametrize(("degree", "errors"), GENERATORS)
def test_published_generators(degree: int, errors: int) -> None:
    assert generator_polynomial(degree, errors) == GENERATORS[degree, errors]
    assert check_bits_of(degree, errors) == GENERATORS[degree, errors].bit_length()


def test_the_generator_of_two_errors_in_31_bits() -> None:
    powers = [10, 9, 8, 6, 5, 3, 0]
    assert generator_polynomial(5, 2) == sum(1 << power for power in powers)


DEGREES = {8: 3, 16: 4, 32: 5, 39: 6, 64: 6, 72: 7}


@pytest.mark.parametrize("name", EXTENDED)
def test_codewords_are_multiples_of_the_generator_with_even_parity(name: str) -> None:
    code = EXTENDED[name]
    generator = GENERATORS[DEGREES[length_of(code)], code.corrects]
    checks = generator.bit_length()
    words, check = code.encode(random_words(code, 50))
    for row, own in zip(words.tolist(), check.tolist(), strict=True):
        whole = sum(word << code.word_bits * i for i, word in enumerate(row))
        payload = [p for p in range(code.word_bits * code.words) if code.payload >> p & 1]
        polynomial = sum((whole >> p & 1) << checks - 1 + i for i, p in enumerate(payload))
        stored = own if code.check_bits else sum(
            (whole >> p & 1) << j for j, p in enumerate(code.check_places)
        )  # fmt: skip
        polynomial |= stored & ((1 << checks - 1) - 1)
        assert (polynomial.bit_count() + (stored >> checks - 1)) % 2 == 0
        while polynomial.bit_length() >= checks:
            polynomial ^= generator << polynomial.bit_length() - checks
        assert polynomial == 0


@pytest.mark.parametrize("name", EXTENDED)
def test_correctable_errors_have_distinct_syndromes(name: str) -> None:
    code = EXTENDED[name]
    columns = np.array(columns_of(code), np.int64)
    found = [
        np.bitwise_xor.reduce(columns[error_places(code, weight)], axis=1, initial=0)
        for weight in range(code.corrects + 1)
    ]
    syndromes = np.concatenate(found)
    assert len(np.unique(syndromes)) == len(syndromes)
    assert not code.is_detected[syndromes].any()
    assert int((~code.is_detected).sum()) == len(syndromes)


@pytest.mark.parametrize("name", CODES)
def test_encoding_keeps_the_payload_and_changes_nothing_the_second_time(name: str) -> None:
    code = CODES[name]
    words = random_words(code, 300)
    stored, check = code.encode(words)
    assert (stored.dtype, check.dtype) == (np.uint64, np.uint64)
    assert (stored.shape, check.shape) == (words.shape, (300,))
    payloads = (
        code.payloads if isinstance(code, LinearCode) else ((1 << code.word_bits) - 1,) * code.words
    )
    masks = np.array(payloads, np.uint64)
    np.testing.assert_array_equal(stored & masks, words & masks)
    if code.check_bits:
        assert not (
            check >> np.uint64(code.check_bits) if code.check_bits < 64 else check * 0
        ).any()
    else:
        assert not check.any()
    for column, other in zip(code.encode(stored), (stored, check), strict=True):
        np.testing.assert_array_equal(column, other)
    decoded = code.decode(stored, check)
    np.testing.assert_array_equal(decoded.words, stored)
    assert not decoded.detected.any()


@pytest.mark.parametrize("name", ["secded", "bch2", "bch3"])
@pytest.mark.parametrize("width", WIDTHS)
def test_check_bits_take_the_lowest_places(name: str, width: int) -> None:
    fitted = code_named(name, width)
    for code in (fitted.code, fitted.rest):
        if code is None:
            continue
        assert isinstance(code, LinearCode)
        taken = [(1 << width) - 1 & ~payload for payload in code.payloads]
        assert all((mask + 1).bit_count() == 1 for mask in taken)  # 0...01...1
        counts = [mask.bit_count() for mask in taken]
        assert max(counts) - min(counts) <= 1
        assert counts == sorted(counts, reverse=True)
        assert sum(counts) == len(code.check_places)


@pytest.mark.parametrize(
    ("name", "payload_bits"),
    [("secded-32", 26), ("bch2-32", 21), ("bch3-32", 16), ("secded-16", 11), ("secded-8", 57)],
)
def test_payload_bits(name: str, payload_bits: int) -> None:
    assert LINEAR[name].payload.bit_count() == payload_bits


@pytest.mark.parametrize("name", EXTENDED)
def test_every_pattern_of_up_to_t_errors_is_corrected(name: str) -> None:
    code = EXTENDED[name]
    for weight in range(code.corrects + 1):
        places = error_places(code, weight)
        stored, check = code.encode(random_words(code, len(places), seed=weight))
        decoded = code.decode(*flipped(code, stored, check, places))
        np.testing.assert_array_equal(decoded.words, stored)
        assert not decoded.detected.any()


@pytest.mark.parametrize("name", EXTENDED)
def test_every_pattern_of_t_plus_1_errors_is_detected(name: str) -> None:
    code = EXTENDED[name]
    places = error_places(code, code.corrects + 1)
    stored, check = code.encode(random_words(code, len(places), seed=9))
    received = flipped(code, stored, check, places)
    decoded = code.decode(*received)
    assert decoded.detected.all()
    np.testing.assert_array_equal(decoded.words, received[0])


@pytest.mark.parametrize("name", EXTENDED)
def test_what_is_not_detected_is_decoded_to_the_nearest_codeword(name: str) -> None:
    """With more errors too: the decoder never takes a codeword further away than t."""
    code = EXTENDED[name]
    rng = np.random.default_rng(1)
    for weight in range(code.corrects + 2, 3 * code.corrects + 4):
        places = np.stack([rng.permutation(length_of(code))[:weight] for _ in range(400)])
        stored, check = code.encode(random_words(code, 400, seed=weight))
        words, own = flipped(code, stored, check, places)
        decoded = code.decode(words, own)
        is_taken = ~decoded.detected
        valid = code.encode(decoded.words)
        np.testing.assert_array_equal(valid[0][is_taken], decoded.words[is_taken])
        distance = ones(decoded.words ^ words).sum(axis=1)
        distance += ones(valid[1] ^ own) * bool(code.check_bits)
        assert (distance[is_taken] <= code.corrects).all()
        # A systematic code: another codeword has another payload.
        masks = np.array(code.payloads, np.uint64)
        assert ((decoded.words ^ stored) & masks)[is_taken].any(axis=1).all()


MISFITS = [("mset", 8), ("cep", 64), ("tmr", 64), ("secded32", 64), ("secded", 12), ("bch2", 24)]
MISFITS += [("cep", 6), ("bch3", 20), ("secded64", 24)]


@pytest.mark.parametrize(("name", "width"), MISFITS)
def test_a_misfit_is_named(name: str, width: int) -> None:
    with pytest.raises(ValueError, match=f"^the code {name} fits .*, got words of {width} bits$"):
        code_named(name, width)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="secded32.*got 'seceded32'"):
        code_named("seceded32", 32)
    with pytest.raises(ValueError, match="'bch4'"):
        Coded("float32", "bch4")
    with pytest.raises(ValueError, match="length 32 has 26 payload bits, got 64"):
        bch("long", 5, 1, 64, 1)
    with pytest.raises(ValueError, match=r"\(0,\) and \(1,\) have the same syndrome"):
        error_patterns([1, 1], 1)
    assert {name.split("-")[0] for name in CODES} == set(CODE_NAMES)


def test_a_code_says_its_name_and_width() -> None:
    code: Code = code_named("bch2", 32).code
    assert repr(code) == "<code bch2 for words of 32 bits>"
