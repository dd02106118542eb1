"""The names of the encodings; nothing heavy is imported, so that help pages can list them."""

from __future__ import annotations

FLOAT_NAMES = ("float16", "bfloat16", "float32", "float64")
#: Names that stand for themselves; besides, ``int2`` to ``int7`` like ``int8``, and any ``qM.N``.
ENCODING_NAMES = (*FLOAT_NAMES, "int8", "int8-tensor", "native", "q15.16")
