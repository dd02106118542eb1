"""Every code that a name and a width give, and errors in its codewords."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from proact.encodings.codes import CODE_NAMES, Code, LinearCode, code_named
from proact.encodings.codes.base import Words

WIDTHS = (8, 16, 32, 64)
Places = NDArray[np.int64]


def _fitting() -> dict[str, Code]:
    found: dict[str, Code] = {}
    for name in CODE_NAMES:
        for width in WIDTHS:
            try:
                fitted = code_named(name, width)
            except ValueError:
                continue
            found[f"{name}-{width}"] = fitted.code
            if fitted.rest is not None:
                found[f"{name}-{width}-rest"] = fitted.rest
    return found


CODES = _fitting()
LINEAR = {name: code for name, code in CODES.items() if isinstance(code, LinearCode)}
#: Those with a minimum distance of 2 t + 2: they correct t errors and detect one more.
EXTENDED = {name: code for name, code in LINEAR.items() if code.corrects}


def length_of(code: Code) -> int:
    """The number of stored bits of a codeword; the check word follows the words."""
    return code.word_bits * code.words + code.check_bits


def columns_of(code: LinearCode) -> list[int]:
    """The column of the parity-check matrix of each place, check word included."""
    return [*code.columns, *(1 << j for j in range(code.check_bits))]


def random_words(code: Code, n: int, seed: int = 0) -> Words:
    """Payloads, uint64 (n, words)."""
    high = (1 << code.word_bits) - 1
    shape = (n, code.words)
    return np.random.default_rng(seed).integers(0, high, shape, np.uint64, endpoint=True)


def error_places(code: Code, weight: int) -> Places:
    """The places of every error pattern of a weight, (patterns, weight)."""
    patterns = list(combinations(range(length_of(code)), weight))
    return np.array(patterns, np.int64).reshape(len(patterns), weight)


def flipped(code: Code, words: Words, check: Words, places: Places) -> tuple[Words, Words]:
    """Codewords with errors: pattern i is made in codeword i."""
    words, check, rows = words.copy(), check.copy(), np.arange(len(words))
    end = code.word_bits * code.words
    for place in places.T:
        in_check = place >= end
        word = np.where(in_check, 0, place // code.word_bits)
        ones = np.uint64(1) << (place % code.word_bits).astype(np.uint64)
        words[rows, word] ^= np.where(in_check, np.uint64(0), ones)
        shift = np.where(in_check, place - end, 0).astype(np.uint64)
        check ^= np.where(in_check, np.uint64(1) << shift, np.uint64(0))
    return words, check


def ones(words: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """The number of ones of each integer."""
    octets = np.ascontiguousarray(words)[..., None].view(np.uint8)
    return np.unpackbits(octets, axis=-1).sum(axis=-1, dtype=np.int64)


def weight_distribution(code: LinearCode) -> list[int]:
    """The number of codewords of each weight, in integers.

    The words of the dual code are enumerated; the MacWilliams identity gives the rest.
    """
    columns = columns_of(code)
    n, rows = len(columns), len(code.check_places) + code.check_bits
    sums = np.arange(1 << rows, dtype=np.uint32)
    weights = np.zeros(1 << rows, np.int64)
    for column in columns:
        parity = sums & np.uint32(column)
        for shift in (16, 8, 4, 2, 1):
            parity = parity ^ parity >> np.uint32(shift)
        weights += parity & 1
    dual = np.bincount(weights, None, n + 1).tolist()
    found = []
    for w in range(n + 1):
        total = sum(
            count * sum((-1) ** i * comb(j, i) * comb(n - j, w - i) for i in range(w + 1))
            for j, count in enumerate(dual)
            if count
        )
        assert total % (1 << rows) == 0
        found.append(total >> rows)
    return found
