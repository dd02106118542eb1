"""Mirrored codes: a second copy of each codeword, for the few words that decide."""

from __future__ import annotations

import numpy as np

from proact.encodings.codes.base import Code, Decoded, Words
from proact.encodings.codes.linear import LinearCode


class Mirrored(Code):
    """Two copies of each codeword of a code in place, in twice the memory.

    The word is lost only if errors are detected in both copies, or if both are decoded and differ.
    The inner code corrects t errors and detects one more. With at most t + 1 flips in both copies
    together, no copy has more than t + 1, and at most one has more than t: the other is right.
    """

    def __init__(self, code: LinearCode) -> None:
        self.code = code
        self.name = f"{code.name}-mirrored"
        self.word_bits = self.check_bits = code.word_bits
        self.corrects = code.corrects + 1

    @property
    def payloads(self) -> tuple[int, ...]:
        """The mask of the payload bits of the word."""
        return self.code.payloads

    def encode(self, words: Words) -> tuple[Words, Words]:
        stored, _ = self.code.encode(words)
        return stored, stored[:, 0].copy()

    def decode(self, words: Words, check: Words) -> Decoded:
        nothing = np.zeros_like(check)
        first = self.code.decode(words, nothing)
        second = self.code.decode(check[:, None], nothing)
        result = np.where(first.detected[:, None], second.words, first.words)
        differ = (first.words != second.words).any(axis=1)
        is_decoded = ~first.detected & ~second.detected
        return Decoded(result, (first.detected & second.detected) | (is_decoded & differ))
