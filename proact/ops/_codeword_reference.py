"""The flips that a code does not correct, in numpy: the oracle of the tests, and the fallback."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from proact.ops.plan import FlipPlan


class CodedWords(NamedTuple):
    """The words of one tensor and their codewords, as for `proact.ops.codeword_plan`."""

    elements: int
    stream: int
    mask: int
    word_bits: int
    words: int
    corrects: int
    check_stream: int
    check_mask: int
    singles: int  #: ``elements`` if all words are part of a codeword

    @property
    def codewords(self) -> int:
        return -(-self.elements // self.words)

    @property
    def exposed_bits(self) -> int:
        check_bits = self.codewords * self.check_mask.bit_count()
        return self.elements * self.mask.bit_count() + check_bits


#: Tensor, element and bit of each flip; the number of flips drawn; of the codewords dropped.
NativeFlips = tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8], int, int]


class ReferenceCodewordPlan:
    """A codeword plan with the interface of the native ``CodewordPlan``."""

    def __init__(self) -> None:
        self._tensors: list[CodedWords] = []

    def add(
        self,
        elements: int,
        stream: int,
        mask: int,
        word_bits: int,
        words: int,
        corrects: int,
        check_stream: int,
        check_mask: int,
        singles: int,
    ) -> None:
        self._tensors.append(
            CodedWords(
                elements,
                stream,
                mask,
                word_bits,
                words,
                corrects,
                check_stream,
                check_mask,
                singles,
            )
        )

    def draw(
        self, ber: float, seed: int, trial: int, threads: int = 1, isa: str = ""
    ) -> NativeFlips:
        tensors, elements, bits = [], [], []
        flips = dropped = 0
        for index, coded in enumerate(self._tensors):
            pattern = ber, seed, trial, threads, isa
            element, bit = _drawn(coded.elements, coded.stream, coded.mask, *pattern)
            codeword, check_bit = _drawn(
                coded.codewords, coded.check_stream, coded.check_mask, *pattern
            )
            element = np.concatenate([element, codeword * np.uint64(coded.words)])
            bit = np.concatenate([bit, check_bit + np.uint8(coded.word_bits)])
            order = np.lexsort((bit, element))
            element, bit = element[order], bit[order]
            _, number, size = np.unique(
                element // np.uint64(coded.words), return_inverse=True, return_counts=True
            )
            survives = (size[number] > coded.corrects) | (element >= np.uint64(coded.singles))
            flips += len(element)
            dropped += len(np.unique(number[~survives]))
            elements.append(element[survives])
            bits.append(bit[survives])
            tensors.append(np.full(len(elements[-1]), index, np.uint32))
        return (
            np.concatenate([np.empty(0, np.uint32), *tensors]),
            np.concatenate([np.empty(0, np.uint64), *elements]),
            np.concatenate([np.empty(0, np.uint8), *bits]),
            flips,
            dropped,
        )


def _drawn(
    elements: int,
    stream: int,
    mask: int,
    ber: float,
    seed: int,
    trial: int,
    threads: int,
    isa: str,
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    if mask == 0:
        return np.empty(0, np.uint64), np.empty(0, np.uint8)
    plan = FlipPlan()
    plan.add_unread(elements, stream, mask)
    _, element, bit = plan.flip(ber, seed, trial, threads, isa).columns().places
    return element, bit
