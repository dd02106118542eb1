"""Rates of corrected, detected and silent errors of a code, by exact formula.

Bits fail independently with probability p. With the parity-check matrix H of a linear code, an
error pattern e has the syndrome H e. The distribution of syndromes follows from the words of the
dual code, as the weights of a code do by the MacWilliams identity (F. J. MacWilliams and
N. J. A. Sloane, "The Theory of Error-Correcting Codes", 1977, chapter 5):

    P(H e = s) = 2^-r sum over u of (-1)^(u s) (1 - 2 p)^weight(u H)

The sum is over all 2^r combinations of the r parity checks. All counts are integers, and p is the
fraction that its float64 is, so that small rates do not drown in the rounding errors of large ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from proact.encodings.base import Encoding
from proact.encodings.coded import Coded
from proact.encodings.coded_word import CodedWord
from proact.encodings.codes import Code, LinearCode
from proact.encodings.codes.tmr import Tmr
from proact.encodings.registry import encoding_named
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.plan import checked_ber


@dataclass(frozen=True)
class ResidualRates:
    """The outcomes of decoding a codeword, as probabilities in [0, 1]; the rest has no flip.

    Attributes:
        corrected: flips occur and every parameter is read right. Flips of check bits alone count
            too.
        detected: the decoder finds an error that it cannot correct.
        miscorrected: a parameter is read wrong without notice.
        lost_parameters: the expected share of the parameters whose error is detected, so that they
            are replaced, or that are read wrong without notice.
    """

    corrected: float
    detected: float
    miscorrected: float
    lost_parameters: float


def residual_rates(code: str | Encoding | Code, ber: float) -> ResidualRates:
    """What a code leaves of independent bit flips, by exact formula.

    The rates are those of a full codeword with all bits exposed. `proact.faults.Record` counts the
    same outcomes in a trial.

    Args:
        code: an encoding with a code, such as ``"float32+bch2"``, or a `LinearCode`.
        ber: bit error rate, a probability per stored bit in [0, 1].

    Raises:
        ValueError: an encoding without a code, an encoding whose rates depend on the model, or a
            code of your own that is not linear.
        TypeError: an argument of another type.
    """
    p = Fraction(checked_ber(ber))
    if isinstance(code, Code):
        fitted, is_read_whole = code, False
    else:
        word = _weight_word(encoding_named(code))
        fitted, is_read_whole = word.fitted.code, word.is_read_whole
    if isinstance(fitted, Tmr):
        return _tmr_rates(fitted, p)
    if isinstance(fitted, LinearCode):
        return _linear_rates(fitted, p, is_read_whole)
    raise ValueError(
        f"the rates of the code {fitted.name} are not known by formula because it is not a "
        "LinearCode: count Record.corrected, detected and miscorrected over some trials"
    )


def _weight_word(encoding: Encoding) -> CodedWord:
    """The stored form of weights."""
    if not isinstance(encoding, Coded):
        raise ValueError(f"the encoding {encoding.name} has no code: add one, as in float32+bch2")
    if encoding.checks_range:
        raise ValueError(
            f"the rates of {encoding.name} depend on the numbers of the model: leave out +range, "
            "or count Record.corrected, detected and miscorrected over some trials"
        )
    if encoding.format.name == "native":
        raise ValueError(
            f"the rates of {encoding.name} depend on the dtype of each tensor: name the format, as "
            "in float32+bch2"
        )
    try:
        word = encoding.word(_weight(torch.float32))
    except TypeError:
        word = encoding.word(_weight(torch.float64))
    assert isinstance(word, CodedWord)
    return word


def _weight(dtype: torch.dtype) -> StoredTensor:
    tensor = torch.zeros(64, 1, dtype=dtype)
    return StoredTensor("weight", ("weight",), tensor, "", ("Linear",), "weight", False)


def _tmr_rates(code: Tmr, p: Fraction) -> ResidualRates:
    """Each bit is wrong if two or three of its copies are."""
    wrong = 3 * p**2 * (1 - p) + p**3
    right = (1 - wrong) ** code.word_bits
    none = (1 - p) ** (3 * code.word_bits)
    return ResidualRates(float(right - none), 0.0, float(1 - right), float(1 - right))


def _linear_rates(code: LinearCode, p: Fraction, is_read_whole: bool) -> ResidualRates:
    """The rates of a code that is decoded by its table of syndromes.

    If a syndrome is not detected and the error is not the one of the table, the result is another
    codeword. It has another payload, because the payload of a systematic code determines its check
    bits: no miscorrection hits check bits alone.
    """
    noticed = 1 - _right(code, 0, p)
    right = _right(code, code.payload, p)
    none = (1 - p) ** code.length
    # A reader of floats takes the check bits in place as part of the number.
    word = (1 << code.word_bits) - 1
    read = [word] * code.words if is_read_whole else code.payloads
    lost = [1 - _right(code, mask << code.word_bits * i, p) for i, mask in enumerate(read)]
    return ResidualRates(
        float(right - none),
        float(noticed),
        float(1 - noticed - right),
        float(sum(lost, Fraction(0)) / code.words),
    )


def _right(code: LinearCode, places: int, p: Fraction) -> Fraction:
    """The probability that no error is detected and the bits at ``places`` are decoded right."""
    checks = len(code.check_places) + code.check_bits
    total = Fraction(0)
    for (errors, weight), count in _terms(code, places).items():
        other = places.bit_count() - errors
        total += count * p**errors * (1 - p) ** other * (1 - 2 * p) ** weight
    return total / (1 << checks)


@lru_cache(maxsize=256)
def _terms(code: LinearCode, places: int) -> Mapping[tuple[int, int], int]:
    """The integers of the formula, by the number of errors at ``places`` and by dual weight.

    The bits at ``places`` are decoded right if their errors are those of the table of syndromes.
    All other errors then have a known syndrome.
    """
    table = np.flatnonzero(~code.is_detected)
    of_table = code.flips[table] & np.uint64(places)
    errors = np.array([mask.bit_count() for mask in of_table.tolist()])
    rest = table.astype(np.uint32) ^ code.syndromes(of_table)
    others = [column for place, column in enumerate(code.columns) if not places >> place & 1]
    others += [1 << j for j in range(code.check_bits)]
    size = len(code.is_detected)
    dual = (len(others) - _signed_sums(np.bincount(others, minlength=size))) // 2
    terms: dict[tuple[int, int], int] = {}
    for number in np.unique(errors).tolist():
        sums = _signed_sums(np.bincount(rest[errors == number], minlength=size))
        # The sums are integers below 2^53, so that float64 is exact.
        counts = np.bincount(dual, sums.astype(np.float64))
        terms |= {(number, w): int(count) for w, count in enumerate(counts.tolist()) if count}
    return terms


def _signed_sums(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum over s of (-1)^(u s) values[s], for each u: the Walsh-Hadamard transform."""
    sums = values.astype(np.int64)
    half = 1
    while half < len(values):
        pairs = sums.reshape(-1, 2, half)
        sums = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        half *= 2
    return sums
