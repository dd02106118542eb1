"""Encodings: the stored forms of parameters, whose bits faults hit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.encodings.base import Bits, Encoding, UniformEncoding, Word
    from proact.encodings.coded import Coded
    from proact.encodings.codes import Code, Decoded
    from proact.encodings.rates import ResidualRates, residual_rates
    from proact.encodings.registry import encoding_named
    from proact.encodings.small_floats import FloatFormat

__all__ = [
    "Bits",
    "Code",
    "Coded",
    "Decoded",
    "Encoding",
    "FloatFormat",
    "ResidualRates",
    "UniformEncoding",
    "Word",
    "encoding_named",
    "residual_rates",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Bits": "base",
        "Code": "codes",
        "Coded": "coded",
        "Decoded": "codes",
        "Encoding": "base",
        "FloatFormat": "small_floats",
        "ResidualRates": "rates",
        "UniformEncoding": "base",
        "Word": "base",
        "encoding_named": "registry",
        "residual_rates": "rates",
    },
)
