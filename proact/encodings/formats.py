"""Number formats by name: encodings without a code."""

from __future__ import annotations

import re

from proact.encodings.base import Encoding
from proact.encodings.block_formats import block_format_named
from proact.encodings.fixed_point import FixedPoint
from proact.encodings.floats import Float
from proact.encodings.integers import Native, ScaledInteger
from proact.encodings.names import (
    BLOCK_NAMES,
    CODE_NAMES,
    ENCODING_NAMES,
    FLOAT_NAMES,
    SMALL_FLOAT_NAMES,
)
from proact.encodings.small_floats import small_float_named
from proact.errors import closest
from proact.text import short_repr


def format_named(name: str) -> Encoding | None:
    """The number format with the given name; None if there is none.

    Raises:
        ValueError: a fixed-point word of more than 32 bits, or a float of more than 16 bits.
    """
    if name in FLOAT_NAMES:
        return Float(name)
    if name == "native":
        return Native()
    if match := re.fullmatch(r"q(\d{1,9})\.(\d{1,9})", name):
        return FixedPoint(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"int([2-8])(-tensor)?", name):
        return ScaledInteger(int(match[1]), per_channel=match[2] is None)
    return block_format_named(name) or small_float_named(name)


_CODED_NAMES = tuple(f"float32+{code}" for code in CODE_NAMES)


def unknown_encoding(name: object) -> ValueError:
    """The error for a name that no encoding has."""
    floats = ", ".join((*FLOAT_NAMES, *SMALL_FLOAT_NAMES))
    return ValueError(
        f"an encoding is one of {floats}, int8, int8-tensor, {', '.join(BLOCK_NAMES)}, native, "
        "fixed point such as q15.16, a float such as e3m2, groups such as int4-group32 or "
        "int4-group128-zero, or block floating point such as bfp8-block32, each possibly with a "
        "code, such as float32+bch2; got "
        f"{short_repr(name)}{closest(name, (*ENCODING_NAMES, *_CODED_NAMES))}"
    )
