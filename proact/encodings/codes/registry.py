"""Codes by name, fitted to words of a given width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from proact.encodings.codes.base import Code
from proact.encodings.codes.bch import bch, check_bits_of
from proact.encodings.codes.in_place import cep, mset, parity
from proact.encodings.codes.linear import LinearCode
from proact.encodings.codes.mirrored import Mirrored
from proact.encodings.codes.tmr import Tmr
from proact.encodings.names import CODE_NAMES, IN_PLACE_CODE_NAMES
from proact.errors import unknown
from proact.ops.in_place_code import InPlaceCode, TensorCode

_MIRRORED = "-mirrored"

_ERRORS = {"secded": 1, "bch2": 2, "bch3": 3}
_DATA_BITS = {"secded32": 32, "secded64": 64}
#: The degree of the field of the extended code that fills this number of bits.
_DEGREES = {8: 3, 16: 4, 32: 5, 64: 6}

#: Gives the bit numbers of a word that a number of check bits take, in ascending order.
CheckPlaces = Callable[[int], Sequence[int]]


class FittedCode(NamedTuple):
    """A code for all words of a tensor.

    Attributes:
        code: the code of each full codeword.
        rest: the code of each single word that is left after the last full codeword of a code in
            place; None if a codeword is one word, or if the last codeword may have fewer words.
        in_memory: the same code for native encoding, if memory holds the stored words themselves.
    """

    code: Code
    rest: Code | None = None
    in_memory: TensorCode | None = None


def code_named(name: str, word_bits: int, places: CheckPlaces = range) -> FittedCode:
    """The code with the given name for words of ``word_bits`` bits.

    ``secded``, ``bch2`` and ``bch3`` are codes in place. They code words of 32 bits, and with
    ``secded`` those of 16 bits, one by one. Otherwise 64 bits of adjacent words form a codeword,
    and single words that are left over are coded one by one with ``secded``.

    Args:
        name: one of `CODE_NAMES`.
        word_bits: the width of a word.
        places: the places of check bits in a word, by default its lowest bits.

    Raises:
        ValueError: an unknown name, or a code that does not fit words of this width.
    """
    if name not in CODE_NAMES:
        raise unknown("code", name, CODE_NAMES)
    if name.endswith(_MIRRORED):
        return _mirrored(name, word_bits, places)
    if name in _ERRORS:
        return _bch_in_place(name, word_bits, places)
    if name in _DATA_BITS:
        return _with_own_check_bits(name, word_bits)
    return FittedCode(_of_each_word(name, word_bits, places))


def is_built_in(code: Code) -> bool:
    """Whether a code is of a class of proact."""
    return type(code) in (LinearCode, Mirrored, Tmr)


def _mirrored(name: str, word_bits: int, places: CheckPlaces) -> FittedCode:
    code = code_named(name.removesuffix(_MIRRORED), word_bits, places).code
    if code.words > 1 or not isinstance(code, LinearCode):
        raise _misfit(name, word_bits, "words of 32 bits (secded-mirrored also 16)")
    return FittedCode(Mirrored(code))


def _with_own_check_bits(name: str, word_bits: int) -> FittedCode:
    data_bits = _DATA_BITS[name]
    if data_bits % word_bits:
        raise _misfit(name, word_bits, f"widths that divide {data_bits}")
    return FittedCode(bch(name, _DEGREES[data_bits] + 1, 1, word_bits, data_bits // word_bits))


def _of_each_word(name: str, word_bits: int, places: CheckPlaces) -> Code:
    if name == "parity":
        return parity(word_bits, places(1)[0])
    if name == "mset":
        if word_bits not in (16, 32, 64):
            raise _misfit(name, word_bits, "floats of 16, 32 or 64 bits")
        return mset(word_bits)
    if name == "cep":
        if word_bits % 4 or word_bits > 32:
            raise _misfit(name, word_bits, "widths of 4 to 32 that are multiples of 4")
        return cep(word_bits)
    if word_bits > 32:
        raise _misfit(name, word_bits, "widths of up to 32")
    return Tmr(word_bits)


@lru_cache(maxsize=64)
def words_code(name: str, word_bytes: int) -> TensorCode:
    """A code in place for the words of a tensor in memory, whose lowest bits take the check bits.

    Args:
        name: one of `IN_PLACE_CODE_NAMES`.
        word_bytes: the size of a word in bytes, 1, 2, 4 or 8.

    Raises:
        ValueError: an unknown name, a code with memory of its own, or one that does not fit words
            of this size.
    """
    if name not in CODE_NAMES:
        raise unknown("code", name, IN_PLACE_CODE_NAMES)
    if name not in IN_PLACE_CODE_NAMES:
        raise ValueError(
            f"the code {name} has check bits outside the words: choose one of "
            f"{', '.join(IN_PLACE_CODE_NAMES)}"
        )
    fitted = code_named(name, 8 * word_bytes)
    rest = None if fitted.rest is None else _in_memory(name, word_bytes, True)
    return TensorCode(_in_memory(name, word_bytes, False), rest)


@lru_cache(maxsize=64)
def _in_memory(name: str, word_bytes: int, is_rest: bool) -> InPlaceCode:
    fitted = code_named(name, 8 * word_bytes)
    code = fitted.rest if is_rest else fitted.code
    assert isinstance(code, LinearCode)
    return InPlaceCode(
        word_bytes,
        code.words,
        code.payload,
        code.syndrome_tables,
        code.spread_tables,
        code.flips,
        code.keeps,
        code.is_detected,
        code.masks_detected,
        source=(_in_memory, (name, word_bytes, is_rest)),
    )


def _bch_in_place(name: str, word_bits: int, places: CheckPlaces) -> FittedCode:
    if word_bits not in _DEGREES:
        raise _misfit(name, word_bits, "words of 8, 16, 32 or 64 bits")
    errors = _ERRORS[name]
    is_single = word_bits == 32 or (word_bits == 16 and errors == 1)
    length = word_bits if is_single else 64
    code = _in_place(name, length, errors, word_bits, places)
    if code.words == 1:
        return FittedCode(code)
    return FittedCode(code, _in_place("secded", word_bits, 1, word_bits, places))


def _in_place(name: str, length: int, errors: int, word_bits: int, places: CheckPlaces) -> Code:
    """The code whose check bits are spread evenly over its words, the first words having more."""
    degree, words = _DEGREES[length], length // word_bits
    each, more = divmod(check_bits_of(degree, errors), words)
    taken = [
        word * word_bits + place for word in range(words) for place in places(each + (word < more))
    ]
    return bch(name, degree, errors, word_bits, words, tuple(taken))


def _misfit(name: str, word_bits: int, fitting: str) -> ValueError:
    return ValueError(f"the code {name} fits {fitting}, got words of {word_bits} bits")
