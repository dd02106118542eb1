"""Do tmr, parity, MSET and CEP decode as stated? Compared with slow statements, bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from code_cases import CODES, flipped, length_of, random_words

Decoded = tuple[int, bool]


def bits_of(value: int, width: int) -> list[int]:
    """The lowest bit first."""
    return [value >> place & 1 for place in range(width)]


def value_of(bits: list[int]) -> int:
    return sum(bit << place for place, bit in enumerate(bits))


def tmr_encoded(word: int, width: int) -> tuple[int, int]:
    return word, word + (word << width)


def tmr_decoded(word: int, check: int, width: int) -> Decoded:
    copies = (
        bits_of(word, width),
        bits_of(check, 2 * width)[:width],
        bits_of(check, 2 * width)[width:],
    )
    return value_of([int(sum(three) >= 2) for three in zip(*copies, strict=True)]), False


def parity_encoded(word: int, width: int) -> tuple[int, int]:
    bits = bits_of(word, width)
    bits[0] = sum(bits[1:]) % 2
    return value_of(bits), 0


def parity_decoded(word: int, check: int, width: int) -> Decoded:
    return word, word.bit_count() % 2 == 1


def mset_encoded(word: int, width: int) -> tuple[int, int]:
    """The highest exponent bit, which follows the sign, is copied into the two lowest bits."""
    bits = bits_of(word, width)
    bits[0] = bits[1] = bits[width - 2]
    return value_of(bits), 0


def mset_decoded(word: int, check: int, width: int) -> Decoded:
    bits = bits_of(word, width)
    majority = int(bits[0] + bits[1] + bits[width - 2] >= 2)
    bits[0] = bits[1] = bits[width - 2] = majority
    return value_of(bits), False


def cep_encoded(word: int, width: int) -> tuple[int, int]:
    """Chunks of three bits from the highest down; their even parities are the lowest bits."""
    bits, chunks = bits_of(word, width), width // 4
    for chunk in range(chunks):
        top = width - 1 - 3 * chunk
        bits[chunks - 1 - chunk] = (bits[top] + bits[top - 1] + bits[top - 2]) % 2
    return value_of(bits), 0


def cep_decoded(word: int, check: int, width: int) -> Decoded:
    bits, chunks, is_wrong = bits_of(word, width), width // 4, False
    for chunk in range(chunks):
        top, parity = width - 1 - 3 * chunk, chunks - 1 - chunk
        if (bits[top] + bits[top - 1] + bits[top - 2] + bits[parity]) % 2:
            is_wrong = True
            bits[top] = bits[top - 1] = bits[top - 2] = bits[parity] = 0
    return value_of(bits), is_wrong


STATEMENTS: dict[str, tuple[Callable[[int, int], tuple[int, int]], Callable[..., Decoded]]] = {
    "tmr": (tmr_encoded, tmr_decoded),
    "parity": (parity_encoded, parity_decoded),
    "mset": (mset_encoded, mset_decoded),
    "cep": (cep_encoded, cep_decoded),
}
NAMES = [name for name in CODES if name.split("-")[0] in STATEMENTS]


@pytest.mark.parametrize("name", NAMES)
def test_words_are_stored_and_read_as_stated(name: str) -> None:
    code = CODES[name]
    encoded, decoded = STATEMENTS[code.name]
    rng = np.random.default_rng(5)
    n, width = 60, code.word_bits
    words = random_words(code, n)
    stored, check = code.encode(words)
    expected = [encoded(word, width) for word in words[:, 0].tolist()]
    assert list(zip(stored[:, 0].tolist(), check.tolist(), strict=True)) == expected
    for weight in (1, 2, 3, 5, length_of(code) // 2):
        places = np.stack([rng.permutation(length_of(code))[:weight] for _ in range(n)])
        received = flipped(code, stored, check, places)
        found = code.decode(*received)
        pairs = zip(received[0][:, 0].tolist(), received[1].tolist(), strict=True)
        expected = [decoded(word, own, width) for word, own in pairs]
        got = zip(found.words[:, 0].tolist(), found.detected.tolist(), strict=True)
        assert list(got) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tmr")])
def test_tmr_corrects_one_flip_at_every_position(name: str) -> None:
    code = CODES[name]
    rng = np.random.default_rng(2)
    width, n = code.word_bits, 200
    copy_of = rng.integers(0, 3, (n, width))
    places = np.arange(width) + copy_of * width
    stored, check = code.encode(random_words(code, n))
    np.testing.assert_array_equal(code.decode(*flipped(code, stored, check, places)).words, stored)


@pytest.mark.parametrize("name", NAMES)
def test_only_codes_that_clear_chunks_mask_what_they_detect(name: str) -> None:
    code = CODES[name]
    assert code.masks_detected == name.startswith("cep")
    assert code.corrects == int(name.startswith("tmr"))
