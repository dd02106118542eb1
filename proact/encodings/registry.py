"""Encodings by name."""

from __future__ import annotations

from functools import lru_cache

from proact.encodings.base import Encoding
from proact.encodings.coded import RANGE, Coded
from proact.encodings.formats import format_named, unknown_encoding
from proact.text import short_repr


def encoding_named(name: str | Encoding) -> Encoding:
    """The encoding with the given name; an `Encoding` is returned as it is.

    The names of formats:

    * ``float16``, ``bfloat16``, ``float32`` and ``float64``; ``float8_e4m3``, ``float8_e5m2`` and
      any other float eXmY of 3 to 16 bits (`FloatFormat`);
    * ``int8`` to ``int2``, with one scale for each output channel, and ``int8-tensor`` to
      ``int2-tensor``, with one scale for each tensor;
    * ``q15.16`` and any other fixed point qM.N of 2 to 32 bits: 1 sign, M integer and N fraction
      bits;
    * blocks that share a scale: ``mxfp8_e4m3`` (or ``mxfp8``), ``mxfp8_e5m2``, ``mxfp6_e3m2`` (or
      ``mxfp6``), ``mxfp6_e2m3``, ``mxfp4``, ``mxint8``, ``nvfp4``, ``bfp2-blockB`` to
      ``bfp16-blockB``, ``int2-groupG`` to ``int8-groupG``, and ``int4-groupG-zero`` and the like
      with zero points, for blocks of B or groups of G elements;
    * ``native``, the dtype of each tensor.

    A code follows after a plus sign, as in ``float32+bch2``: ``secded``, ``bch2``, ``bch3``,
    ``parity``, ``mset`` and ``cep`` in the same memory; ``secded32``, ``secded64``, ``tmr``,
    ``secded-mirrored``, ``bch2-mirrored`` and ``bch3-mirrored`` with memory of their own. With
    ``+range`` at the end, as in ``float32+bch2+range``, decoded numbers outside the range of a
    tensor's clean numbers are replaced too.

    Raises:
        ValueError: an unknown name, or a number of bits that its format does not have. A code that
            does not fit a tensor is refused when the tensor is stored.
    """
    if isinstance(name, Encoding):
        return name
    encoding = _encoding(name) if isinstance(name, str) else None
    if encoding is not None:
        return encoding
    raise unknown_encoding(name)


@lru_cache(maxsize=64)
def _encoding(name: str) -> Encoding | None:
    has_range = name.endswith(RANGE)
    plain, *codes = name.removesuffix(RANGE).split("+")
    inner = format_named(plain)
    if inner is None or not (codes or has_range):
        return inner
    if len(codes) != 1:
        raise ValueError(
            f"a format is followed by one code, and {RANGE} by choice, as in float32+bch2{RANGE}; "
            f"got {short_repr(name)}"
        )
    return Coded(inner, codes[0], has_range)
