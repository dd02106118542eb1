"""Derivation of seeds and streams: the only place where random numbers get their keys.

Each derivation hashes a text with SHA-256 and takes the leading bits of the digest, in big-endian
byte order. The text ``proact PURPOSE SEED NUMBER ...`` separates domains: two purposes, or two
lists of numbers, give independent seeds. The purposes in use:

| purpose | numbers | seeds |
|---|---|---|
| ``fault`` | position | the second and later faults of one injection |
| ``stratum`` | limits of the numbers of flips | fault patterns and images of a stratum |
| ``stratum-part`` | part | flips in one part of a stratum's fault space |
| ``stratum-flips`` | trial, part | numbers of flips in a stratum (`derived_words`) |
| ``pilot`` | | fault patterns and images of the pilot that finds the critical field |
| ``search`` | | fault patterns of a threshold search |
| ``search-images`` | trial | images of one trial of a threshold search |
| ``images`` | trial | images of one trial of a campaign (`derived_words`) |

A change of any derivation changes results: raise the version that belongs to them
(``sampler_version``, ``DRAW_VERSION``).
"""

from __future__ import annotations

import hashlib
import struct

from proact.limits import SEED_BITS, STREAM_BITS


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed that is independent of ``seed`` and of the seeds for other purposes and numbers.

    Args:
        seed: the seed of the experiment.
        purpose: a word without spaces; see the module's table.
        numbers: integers that distinguish the seeds of one purpose.

    Returns:
        An integer in [0, 2^63): the leading 63 bits of the digest.
    """
    return _leading_bits(_text(seed, purpose, numbers), SEED_BITS)


def derived_words(count: int, seed: int, purpose: str, *numbers: int) -> tuple[int, ...]:
    """A sequence of ``count`` independent 64-bit words; shorter sequences are its prefixes.

    The words are read from SHAKE-128 of the same text, as little-endian integers. They are no
    seeds, and ``DRAW_VERSION`` fixes their values.

    Args:
        count: number of words, 0 or more.
        seed, purpose, numbers: as for `derived_seed`.
    """
    text = _text(seed, purpose, numbers)
    return struct.unpack(f"<{count}Q", hashlib.shake_128(text.encode()).digest(8 * count))


def stream_of(name: str) -> int:
    """The stream of a tensor: the leading 48 bits of the SHA-256 of its qualified name.

    The name stands alone in the hashed text, because ``sampler_version`` fixes the values.
    """
    return _leading_bits(name, STREAM_BITS)


def _text(seed: int, purpose: str, numbers: tuple[int, ...]) -> str:
    return " ".join(["proact", purpose, *map(str, (seed, *numbers))])


def _leading_bits(text: str, bits: int) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest, "big") >> (8 * len(digest) - bits)
