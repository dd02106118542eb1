"""The base class of codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]


class Decoded(NamedTuple):
    """The result of decoding n codewords.

    Attributes:
        words: the stored words after correction, uint64 (n, words).
        detected: whether the decoder found an error that it could not correct, bool (n,).
    """

    words: Words
    detected: NDArray[np.bool_]


class Code(ABC):
    """An error-correcting or error-detecting code for stored words; the base class for your own.

    A codeword consists of ``words`` adjacent words of a tensor and, for a code that needs memory of
    its own, one further word of ``check_bits`` bits. Define the attributes and `encode` and
    `decode`. docs/howto/add_a_code.md has an example.
    """

    #: Identifies the code, also in the name of an encoding.
    name: str
    #: The width of a word in bits, 2 to 64.
    word_bits: int
    #: The number of words of a codeword; their bits together are 64 or fewer.
    words: int = 1
    #: The bits of a codeword that are stored in addition to its words, 0 to 64. A code in place has
    #: none: its check bits take the places of low bits of the words.
    check_bits: int = 0
    #: Any pattern of at most this many flips in a codeword is corrected. Such patterns are then
    #: never decoded.
    corrects: int = 0
    #: Whether `decode` repairs what it detects, so that such words are not replaced.
    masks_detected: bool = False

    @property
    def payloads(self) -> tuple[int, ...]:
        """The mask of the bits of each word that no check bit takes; by default all of them."""
        return ((1 << self.word_bits) - 1,) * self.words

    @abstractmethod
    def encode(self, words: Words) -> tuple[Words, Words]:
        """Encodes words.

        Args:
            words: uint64 (n, ``words``); a code in place overwrites the places of its check bits.

        Returns:
            The stored words, uint64 (n, ``words``), and the check words, uint64 (n,), which are 0
            for a code in place. Encoding the stored words again does not change them.
        """

    @abstractmethod
    def decode(self, words: Words, check: Words) -> Decoded:
        """Decodes stored words.

        Args:
            words: uint64 (n, ``words``), possibly with errors.
            check: check words, uint64 (n,), possibly with errors.

        Returns:
            The corrected words, with valid check bits if the code is in place.
        """

    def __repr__(self) -> str:
        return f"<code {self.name} for words of {self.word_bits} bits>"
