"""Triple modular redundancy: three copies of each word and the majority of each bit."""

from __future__ import annotations

import numpy as np

from proact.encodings.codes.base import Code, Decoded, Words


class Tmr(Code):
    """Two further copies of each word; one flip at each bit position is corrected."""

    name = "tmr"
    corrects = 1

    def __init__(self, word_bits: int) -> None:
        self.word_bits, self.check_bits = word_bits, 2 * word_bits

    def encode(self, words: Words) -> tuple[Words, Words]:
        copy = words[:, 0]
        return words, copy | copy << np.uint64(self.word_bits)

    def decode(self, words: Words, check: Words) -> Decoded:
        first, second = words[:, 0], check & np.uint64((1 << self.word_bits) - 1)
        third = check >> np.uint64(self.word_bits)
        majority = first & second | first & third | second & third
        return Decoded(majority[:, None], np.zeros(len(words), bool))
