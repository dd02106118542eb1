"""Extended Hamming and BCH codes.

R. C. Bose, D. K. Ray-Chaudhuri, "On a class of error correcting binary group codes", Information
and Control 3 (1960), and A. Hocquenghem, "Codes correcteurs d'erreurs", Chiffres 2 (1959). A
Hamming code is the BCH code that corrects one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

from proact.encodings.codes.linear import LinearCode, error_patterns

#: A primitive polynomial of each degree m, which defines the field GF(2^m); bit i is the
#: coefficient of x^i.
_PRIMITIVE = {3: 0b1011, 4: 0b10011, 5: 0b100101, 6: 0b1000011, 7: 0b10001001}


@cache
def generator_polynomial(degree: int, errors: int) -> int:
    """The generator of the BCH code of length 2^degree - 1 that corrects ``errors`` errors.

    It is the least common multiple of the minimal polynomials of a, a^3, a^5, ... for a primitive
    element a of GF(2^degree). Bit i is the coefficient of x^i.
    """
    generator = 1
    seen: set[int] = set()
    for power in range(1, 2 * errors, 2):
        conjugates = _conjugates(power, degree)
        if power not in seen:
            generator = _product(generator, _minimal_polynomial(conjugates, degree))
        seen.update(conjugates)
    return generator


@lru_cache(maxsize=256)
def bch(
    name: str,
    degree: int,
    errors: int,
    word_bits: int,
    words: int,
    check_places: tuple[int, ...] = (),
) -> LinearCode:
    """The extended BCH code of ``words`` words, shortened to their length.

    The code of length 2^degree - 1 has the minimum distance 2 errors + 1. A further check bit makes
    the number of ones in each codeword even. So the extended code has the distance 2 errors + 2: it
    corrects ``errors`` errors and detects one more.

    Args:
        name: the name of the code.
        degree: the degree m of the field GF(2^m), 3 to 7.
        errors: the number t of errors in a codeword that are corrected.
        word_bits, words: the words of a codeword.
        check_places: the places of the check bits for a code in place, as many as
            `check_bits_of` says; without them the check bits are stored in addition.

    Raises:
        ValueError: more places than the code has.
    """
    generator = generator_polynomial(degree, errors)
    check_bits = check_bits_of(degree, errors)
    places = word_bits * words
    payload = [place for place in range(places) if place not in set(check_places)]
    if len(payload) + check_bits > 1 << degree:
        raise ValueError(
            f"the extended BCH code of length {1 << degree} has {(1 << degree) - check_bits} "
            f"payload bits, got {len(payload)}"
        )
    columns = [0] * places
    remainder = 1
    for _ in range(check_bits - 1):  # x^i for i below the degree of the generator
        remainder = _shifted(remainder, generator)
    for place in payload:
        columns[place] = _with_parity(remainder, check_bits)
        remainder = _shifted(remainder, generator)
    for number, place in enumerate(check_places):
        columns[place] = 1 << number
    own = [] if check_places else [1 << number for number in range(check_bits)]
    patterns = error_patterns([*columns, *own], errors)
    return LinearCode(
        name,
        word_bits,
        words,
        columns,
        check_places=check_places,
        check_bits=len(own),
        corrections={s: [p for p in error if p < places] for s, error in patterns.items()},
        corrects=errors,
    )


def check_bits_of(degree: int, errors: int) -> int:
    """The number of check bits of the extended code."""
    return generator_polynomial(degree, errors).bit_length()


def _with_parity(remainder: int, check_bits: int) -> int:
    """The column of a payload bit: the check bits of a codeword whose only payload bit it is.

    The codeword consists of the payload bit, the remainder and the parity of both.
    """
    parity = 1 ^ remainder.bit_count() & 1
    return remainder | parity << (check_bits - 1)


def _shifted(polynomial: int, generator: int) -> int:
    """``polynomial`` times x, modulo ``generator``."""
    polynomial <<= 1
    top = 1 << generator.bit_length() - 1
    return polynomial ^ generator if polynomial & top else polynomial


def _product(a: int, b: int) -> int:
    """The product of two polynomials over GF(2)."""
    result = 0
    while b:
        if b & 1:
            result ^= a
        a, b = a << 1, b >> 1
    return result


def _conjugates(power: int, degree: int) -> list[int]:
    """The powers of a whose minimal polynomial is that of a^power."""
    order = (1 << degree) - 1
    found = [power % order]
    while (following := found[-1] * 2 % order) != found[0]:
        found.append(following)
    return found


def _minimal_polynomial(conjugates: Sequence[int], degree: int) -> int:
    """The product of (x - a^j) over the conjugates; its coefficients are 0 and 1."""
    order = (1 << degree) - 1
    powers, logarithms = [1], {1: 0}
    for j in range(1, order):
        powers.append(_shifted(powers[-1], _PRIMITIVE[degree]))
        logarithms[powers[-1]] = j
    coefficients = [1]  # from x^0 up
    for j in conjugates:
        scaled = [powers[(logarithms[c] + j) % order] if c else 0 for c in coefficients]
        moved = [0, *coefficients]
        coefficients = [m ^ s for m, s in zip(moved, [*scaled, 0], strict=True)]
    return sum(coefficient << i for i, coefficient in enumerate(coefficients))
