"""The names of encodings and codes; nothing heavy is imported, so that help pages can list them."""

from __future__ import annotations

FLOAT_NAMES = ("float16", "bfloat16", "float32", "float64")
SMALL_FLOAT_NAMES = ("float8_e4m3", "float8_e5m2")
#: Formats in which the elements of a block share a scale.
BLOCK_NAMES = (
    *("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8"),
    "nvfp4",
)
#: Families of further names, for lists of what there is.
OTHER_NAMES = (
    "qM.N of up to 32 bits",
    "floats eXmY of up to 16 bits",
    "intN-groupG and intN-groupG-zero",
    "bfpN-blockB",
)
#: Names that stand for themselves; besides, ``int2`` to ``int7`` like ``int8``, any ``qM.N``,
#: floats ``eXmY``, groups ``int4-group32`` and ``int4-group32-zero``, and ``bfp8-block32``.
ENCODING_NAMES = (
    *FLOAT_NAMES,
    *SMALL_FLOAT_NAMES,
    *BLOCK_NAMES,
    *("int8", "int8-tensor", "native", "q15.16"),
)

#: Codes whose check bits take bits of the words.
IN_PLACE_CODE_NAMES = ("secded", "bch2", "bch3", "parity", "mset", "cep")
#: The names of the codes, which follow the name of an encoding after a plus sign.
CODE_NAMES = (
    *IN_PLACE_CODE_NAMES,
    *("secded32", "secded64", "tmr"),
    *("secded-mirrored", "bch2-mirrored", "bch3-mirrored"),
)
