"""Codes whose check bits take bits of the words in memory, as tables for native code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact import _native
from proact.ops._device_sweep import DeviceSweeps, sweeps_on_gpu
from proact.ops.plain_memory import address_of, check_writable

Words = NDArray[np.uint64]


class InPlaceCode:
    """A systematic linear code of codewords that consist of adjacent memory words.

    A codeword has 8, 16, 32 or 64 bits and is packed into one integer as memory is read on a
    little-endian machine: the first word has the lowest bits. Its syndrome is the XOR of a table
    entry for each of its bytes, and 0 if it is valid. The check bits of a payload are its syndrome;
    bit j of it belongs to the check bit number j.

    Args:
        word_bytes: the size of a word in bytes.
        words: the number of words in a codeword.
        payload: the places that do not hold check bits, as a mask.
        syndrome_tables: the syndrome of each value of each byte, uint32 (8, 256).
        spread_tables: the places of the check bits for each value of each byte of a syndrome,
            uint64 (8, 256).
        flips: the places to flip for each syndrome, uint64 (2^check bits,).
        keeps: the places that keep their value for each syndrome, uint64 (2^check bits,).
        is_detected: whether each syndrome is detected only, bool (2^check bits,).
        masks_detected: whether ``keeps`` repairs what is detected, so that it is not replaced.
        source: a function and its arguments that return this code, so that a pickle is small.

    Raises:
        ValueError: a codeword of another width.
    """

    def __init__(
        self,
        word_bytes: int,
        words: int,
        payload: int,
        syndrome_tables: NDArray[np.uint32],
        spread_tables: Words,
        flips: Words,
        keeps: Words,
        is_detected: NDArray[np.bool_],
        masks_detected: bool,
        source: tuple[Callable[..., InPlaceCode], tuple[Any, ...]] | None = None,
    ) -> None:
        self.word_bytes, self.words, self.payload = word_bytes, words, payload
        self.codeword_bytes = word_bytes * words
        if self.codeword_bytes not in (1, 2, 4, 8):
            raise ValueError(
                "a codeword in place must have 1, 2, 4 or 8 bytes, got "
                f"{words} words of {word_bytes} bytes"
            )
        self.syndrome_tables, self.spread_tables = syndrome_tables, spread_tables
        self.flips, self.keeps, self.is_detected = flips, keeps, is_detected
        self.masks_detected = masks_detected
        self._source = source
        self._native: Any = None

    @property
    def check_bits(self) -> int:
        """The number of check bits of a codeword."""
        return len(self.flips).bit_length() - 1

    @property
    def steps(self) -> tuple[int, ...]:
        """The lowest payload bit of each word, as a number."""
        bits = 8 * self.word_bytes
        words = (self.payload >> bits * k & ((1 << bits) - 1) for k in range(self.words))
        return tuple(word & -word for word in words)

    def syndromes(self, packed: Words) -> NDArray[np.uint32]:
        """The syndrome of each codeword, uint32 (n,)."""
        return _looked_up(self.syndrome_tables, packed, self.codeword_bytes)

    def encoded(self, packed: Words) -> Words:
        """Codewords with the payload of ``packed`` and valid check bits, uint64 (n,)."""
        payload = packed & np.uint64(self.payload)
        check = self.syndromes(payload).astype(np.uint64)
        result: Words = payload | _looked_up(self.spread_tables, check, 3)
        return result

    @property
    def native(self) -> Any:
        """The code in native memory; the native module must be there."""
        module: Any = _native.module
        if not isinstance(self._native, module.ScrubCode):  # tests replace the module
            self._native = module.ScrubCode(
                self.codeword_bytes,
                self.check_bits,
                self.payload,
                self.syndrome_tables.reshape(-1),
                self.spread_tables.reshape(-1),
                self.flips,
                self.keeps,
                self.is_detected.astype(np.uint8),
                self.masks_detected,
            )
        return self._native

    def __deepcopy__(self, memo: dict[int, Any]) -> InPlaceCode:
        return self  # nothing changes it

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is not None:
            return self._source
        return InPlaceCode, (
            self.word_bytes,
            self.words,
            self.payload,
            self.syndrome_tables,
            self.spread_tables,
            self.flips,
            self.keeps,
            self.is_detected,
            self.masks_detected,
        )


class TensorCode(NamedTuple):
    """The codes of all words of a tensor, in the order of its elements.

    Attributes:
        code: the code of each full codeword.
        rest: the code of each single word that is left after them; None if no word can be left.
    """

    code: InPlaceCode
    rest: InPlaceCode | None = None

    def parts(self, elements: int) -> list[tuple[InPlaceCode, int, int]]:
        """The codewords of a tensor of ``elements`` words: (code, first word, codewords)."""
        full = elements // self.code.words
        parts = [(self.code, 0, full)]
        if (left := elements - full * self.code.words) > 0:
            if self.rest is None:
                raise ValueError(
                    f"a code of {self.code.words} words needs a code for the {left} words that "
                    f"are left of {elements}"
                )
            parts.append((self.rest, elements - left, left))
        return [part for part in parts if part[2]]

    def is_overwritten(self, elements: int, invalid: int) -> bool:
        """Whether so many codewords are invalid that all words must have been written.

        Of arbitrary words, a share of 1 - 2^-r of the codewords is invalid, with r check bits. Bit
        errors would have to be implausibly frequent to come near: at a BER of 1e-2, one half of the
        codewords of 64 bits are hit. Fewer than 16 codewords do not tell.

        Args:
            elements: the number of words of the tensor.
            invalid: the number of its codewords that are invalid.
        """
        codewords = sum(count for _, _, count in self.parts(elements))
        expected = codewords * (1 - 0.5**self.code.check_bits)
        return codewords >= 16 and invalid > 0.8 * expected

    def step(self, elements: int) -> int:
        """The largest difference between adjacent integers that all words can hold."""
        return max((max(code.steps) for code, _, _ in self.parts(elements)), default=1)


def encode_words_(tensor: Tensor, coded: TensorCode, threads: int | None = None) -> None:
    """Writes valid check bits into all words of ``tensor``; its payload bits stay.

    Args:
        tensor: contiguous memory that `encodes_in_place`, of any dtype with words of the size that
            the code has.
        coded: the codes of its words.
        threads: the largest number of threads, by default torch's.

    Raises:
        TypeError: no plain memory, or words of another size.
        ValueError: a tensor that is not contiguous, on a device without kernels or not writable.
    """
    begin = address_of("a tensor to encode", tensor)
    check_word_size("a tensor to encode", tensor, coded)
    if not encodes_in_place(tensor):
        raise ValueError(
            "a tensor to encode must be contiguous and on the CPU, or on a GPU in a build with "
            f"CUDA; got shape {tuple(tensor.shape)} with strides {tuple(tensor.stride())} on "
            f"{tensor.device}"
        )
    check_writable("a tensor to encode", tensor)
    if sweeps_on_gpu([tensor]):
        plan = DeviceSweeps("DeviceScrubPlan").on(tensor.device)
        plan.memory.add("a tensor to encode", tensor)
        for code, first, codewords in coded.parts(tensor.numel()):
            address = begin + first * code.word_bytes
            plan.native.add(address, codewords, code.native, code.word_bytes)
        plan.encode()
        return
    for code, first, codewords in coded.parts(tensor.numel()):
        if _native.module is not None:
            address = begin + first * code.word_bytes
            count = torch.get_num_threads() if threads is None else threads
            code.native.encode(address, codewords, count)
        else:
            memory = memory_words(tensor.detach())[first : first + codewords * code.words]
            words = memory.numpy().view(f"u{code.codeword_bytes}")
            words[:] = code.encoded(words.astype(np.uint64)).astype(words.dtype)


def encodes_in_place(tensor: Tensor) -> bool:
    """Whether `encode_words_` takes a tensor with plain memory."""
    return sweeps_on_gpu([tensor]) or (tensor.is_contiguous() and tensor.is_cpu)


def check_word_size(name: str, tensor: Tensor, coded: TensorCode) -> None:
    """TypeError if the code is for words of another size than those of ``tensor``."""
    for code in coded:
        if code is not None and code.word_bytes != tensor.element_size():
            raise TypeError(
                f"{name} has words of {tensor.element_size()} bytes ({tensor.dtype}), and its code "
                f"is for words of {code.word_bytes}"
            )


def memory_words(tensor: Tensor) -> Tensor:
    """The words of a contiguous tensor as integers, (elements,); shares the memory."""
    dtype = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(-1).view(dtype[tensor.element_size()])


def _looked_up(tables: NDArray[Any], packed: Words, used: int) -> NDArray[Any]:
    """The XOR over the lowest ``used`` bytes of their table entries."""
    result = np.zeros(len(packed), tables.dtype)
    for byte in range(used):
        values = packed >> np.uint64(8 * byte) & np.uint64(0xFF)
        result ^= tables[byte][values.astype(np.intp)]
    return result
