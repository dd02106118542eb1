"""Error-correcting and error-detecting codes for stored words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.encodings.codes.base import Code, Decoded
    from proact.encodings.codes.linear import LinearCode
    from proact.encodings.codes.registry import CODE_NAMES, FittedCode, code_named

__all__ = ["CODE_NAMES", "Code", "Decoded", "FittedCode", "LinearCode", "code_named"]

__getattr__ = lazy_names(
    __name__,
    {
        "CODE_NAMES": "registry",
        "Code": "base",
        "Decoded": "base",
        "FittedCode": "registry",
        "LinearCode": "linear",
        "code_named": "registry",
    },
)
