"""Codes in place that guard chosen bits of a word: parity, MSET and CEP.

MSET and CEP are the codes of M. H. Ahmadilivani et al., "Effective and Memory-Efficient
Alternatives to ECC for Reliable Large-Scale DNNs", arXiv 2605.07417.
"""

from __future__ import annotations

from proact.encodings.codes.linear import LinearCode


def parity(word_bits: int, check_bit: int = 0) -> LinearCode:
    """One even parity bit for the word; an odd number of flips is detected."""
    columns = [1] * word_bits
    return LinearCode(
        "parity", word_bits, 1, columns, check_places=(check_bit,), corrections={0: ()}
    )


def mset(word_bits: int) -> LinearCode:
    """Most Significant Exponent bit Triplication, for floats: that bit in the two lowest bits too.

    The majority of the three decides. All other bits are unprotected.
    """
    highest = word_bits - 2
    columns = [0] * word_bits
    columns[highest], columns[0], columns[1] = 0b11, 0b01, 0b10
    return LinearCode(
        "mset",
        word_bits,
        1,
        columns,
        check_places=(0, 1),
        corrections={0b00: (), 0b01: (0,), 0b10: (1,), 0b11: (highest,)},
    )


def cep(word_bits: int, data_bits: int = 3) -> LinearCode:
    """Chunked Embedded Parity: one parity bit, among the lowest bits, for each chunk of the word.

    From the highest bit down, ``data_bits`` adjacent bits and their parity bit form a chunk. A
    chunk whose parity is wrong becomes 0.

    Args:
        word_bits: a multiple of ``data_bits + 1``.
        data_bits: the payload bits of a chunk; the paper has 3, 7 and 15.
    """
    chunks = word_bits // (data_bits + 1)
    columns = [1 << place for place in range(chunks)]
    members: list[list[int]] = [[place] for place in range(chunks)]
    for chunk in range(chunks):
        for place in range(chunks + chunk * data_bits, chunks + (chunk + 1) * data_bits):
            columns.append(1 << chunk)
            members[chunk].append(place)
    clears = {
        syndrome: [p for c in range(chunks) if syndrome >> c & 1 for p in members[c]]
        for syndrome in range(1, 1 << chunks)
    }
    return LinearCode(
        "cep",
        word_bits,
        1,
        columns,
        check_places=range(chunks),
        corrections={0: ()},
        clears=clears,
    )
