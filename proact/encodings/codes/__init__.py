"""Error-correcting and error-detecting codes for stored words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.encodings.names import CODE_NAMES, IN_PLACE_CODE_NAMES
from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.encodings.codes.base import Code, Decoded
    from proact.encodings.codes.linear import LinearCode
    from proact.encodings.codes.registry import (
        FittedCode,
        code_named,
        words_code,
    )

__all__ = [
    "CODE_NAMES",
    "IN_PLACE_CODE_NAMES",
    "Code",
    "Decoded",
    "FittedCode",
    "LinearCode",
    "code_named",
    "words_code",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Code": "base",
        "Decoded": "base",
        "FittedCode": "registry",
        "words_code": "registry",
        "LinearCode": "linear",
        "code_named": "registry",
    },
)
