"""One tensor of the fault space, with its exposed bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from proact.encodings import Word
from proact.encodings.coded_word import CodedWord
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.number_formats import bit_numbers
from proact.ops.seeds import stream_of

#: Follows the name of a tensor in the name of its check words in the sampler.
_CHECK_WORDS = ":check"


class ExposedMemory(NamedTuple):
    """Stored words of one tensor that have the same exposed bits: its own words, or check words."""

    words: int
    stream: int  #: names the words in the sampler; in [0, 2^48)
    mask: int  #: the exposed bits of each word; bit 0 is the lowest
    first_bit: int  #: the number of bit 0 in the stored form of the tensor; 0 for its own words


@dataclass(frozen=True, eq=False)
class ExposedTensor:
    """One tensor of the fault space.

    Attributes:
        stored: the tensor with its names, layer and kind.
        word: the stored form of its elements.
        mask: the exposed bits of each word; bit 0 is the lowest. In an encoding with a code that
            needs memory of its own, the highest bits are those of the check word of a codeword.
        stream: names the tensor in the sampler; in [0, 2^48).
    """

    stored: StoredTensor
    word: Word
    mask: int
    stream: int

    @property
    def name(self) -> str:
        """The qualified name."""
        return self.stored.name

    @property
    def tensor(self) -> Tensor:
        """The memory of the tensor itself, not a copy."""
        return self.stored.tensor

    @property
    def elements(self) -> int:
        """The number of elements."""
        return self.tensor.numel()

    @property
    def bits(self) -> int:
        """The number of exposed bits in the whole tensor."""
        return sum(memory.words * memory.mask.bit_count() for memory in self.memories)

    def words_with(self, bit: int) -> int:
        """The number of stored words that have the bit of this number."""
        return next(m.words for m in reversed(self.memories) if bit >= m.first_bit)

    @property
    def words_per_check(self) -> int:
        """The number of words of the tensor that share a check word."""
        return self.word.fitted.code.words if isinstance(self.word, CodedWord) else 1

    @cached_property
    def memories(self) -> list[ExposedMemory]:
        """The exposed words of the tensor, and its exposed check words."""
        word = self.word
        if not isinstance(word, CodedWord):
            return [ExposedMemory(self.elements, self.stream, self.mask, 0)]
        width = word.format.bits
        own = ExposedMemory(self.elements, self.stream, self.mask & word.format.all_bits, 0)
        stream = stream_of(f"{self.name}{_CHECK_WORDS}")
        check = ExposedMemory(word.check_words, stream, self.mask >> width, width)
        return [memory for memory in (own, check) if memory.mask]

    @cached_property
    def bit_numbers(self) -> list[int]:
        """The exposed bits of a word, in ascending order."""
        return bit_numbers(self.mask)
