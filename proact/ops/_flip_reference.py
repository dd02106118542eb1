"""The flip sampler in plain Python integers: the oracle of the tests, and the fallback.

It follows csrc/core line by line (philox.hpp, binomial.hpp, fault_block.hpp), which cites the
sources, and is about a thousand times slower.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from proact.ops._number_format_reference import Fixed, Form, form_of
from proact.ops.number_formats import bit_numbers

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_MOST_EXPECTED = 32.0
_MOST_WORDS_LOG2 = 24
_MOST_DRAWN = 128


def philox4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x32-10 of Salmon et al. (SC'11): four 32-bit words from a counter and a key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product_0, product_1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product_1 >> 32) ^ c1 ^ k0,
            product_1 & _MASK32,
            (product_0 >> 32) ^ c3 ^ k1,
            product_0 & _MASK32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return c0, c1, c2, c3


@lru_cache(maxsize=256)
def binomial_survival(n: int, p: float) -> tuple[int, ...]:
    """``2^64 P(K > k)`` for k = 0, 1, ... and K ~ Binomial(n, p), p <= 1/2, n p <= 32."""
    trials, odds = float(n), p / (1.0 - p)
    mode = int((trials + 1.0) * p)
    weight = [0.0] * mode + [1.0]
    for k in range(mode, 0, -1):
        weight[k - 1] = weight[k] * k / ((trials - k + 1.0) * odds)
    for k in range(mode, min(n, _MOST_DRAWN)):
        weight.append(weight[k] * ((trials - k) * odds) / (k + 1.0))
    total = 0.0
    for w in reversed(weight):
        total += w

    survival = [0] * (len(weight) - 1)
    above = 0
    for k in range(len(weight) - 1, 0, -1):
        above = min(above + min(int(weight[k] / total * 2.0**64), _MASK64), _MASK64)
        survival[k - 1] = above
    while survival and survival[-1] == 0:
        survival.pop()
    return tuple(survival)


def block_words_log2(draw_probability: float, bits_per_word: int, tensor_words: int) -> int:
    log2 = 0
    while (
        log2 < _MOST_WORDS_LOG2
        and 1 << log2 < tensor_words
        and draw_probability * float(bits_per_word << (log2 + 1)) <= _MOST_EXPECTED
    ):
        log2 += 1
    return log2


def _block_words(
    seed: int, trial: int, stream: int, block: int, first_draw: int = 0
) -> Iterator[int]:
    key = (seed & _MASK32, seed >> 32)
    draw = first_draw
    while True:
        counter = ((stream >> 32 << 16) + draw, block, stream & _MASK32, trial)
        yield from philox4x32_10(counter, key)
        draw += 1


def _below(words: Iterator[int], bound: int) -> int:
    product = next(words) * bound
    if product & _MASK32 < bound:
        rejected = (2**32 - bound) % bound
        while product & _MASK32 < rejected:
            product = next(words) * bound
    return product >> 32


def _drawn_positions(
    tensor_words: int,
    bits_per_word: int,
    probability: float,
    seed: int,
    trial: int,
    stream: int,
    first_draw: int = 0,
) -> Iterator[tuple[int, int, list[int]]]:
    """For each block: its number, its first word and the drawn positions."""
    log2 = block_words_log2(probability, bits_per_word, tensor_words)
    block_bits = bits_per_word << log2
    survival = binomial_survival(block_bits, probability)
    for block in range(-(-tensor_words >> log2)):
        words = _block_words(seed, trial, stream, block, first_draw)
        u = next(words) | next(words) << 32
        wanted = sum(u < s for s in survival)
        drawn: dict[int, None] = {}
        while len(drawn) < wanted:
            drawn[_below(words, block_bits)] = None
        yield block, block << log2, list(drawn)


def flipped_bits(
    tensor_words: int, mask: int, ber: float, seed: int, trial: int, stream: int
) -> Iterator[tuple[int, int]]:
    """The flips as (element, bit), in the order in which they are made."""
    if ber == 0.0:
        return
    exposed = bit_numbers(mask)
    inverted = ber > 0.5
    probability = 1.0 - ber if inverted else ber
    block_bits = len(exposed) << block_words_log2(probability, len(exposed), tensor_words)
    for _, first_word, drawn in _drawn_positions(
        tensor_words, len(exposed), probability, seed, trial, stream
    ):
        kept = set(drawn)
        positions = (p for p in range(block_bits) if p not in kept) if inverted else iter(drawn)
        for position in positions:
            word, rank = divmod(position, len(exposed))
            if first_word + word < tensor_words:
                yield first_word + word, exposed[rank]


def exactly_flipped_bits(
    tensors: list[tuple[int, int, int]], flips: int, seed: int, trial: int
) -> list[tuple[int, int, int]]:
    """Exactly ``flips`` flips as (tensor, element, bit), in tensors given as (words, mask, stream).

    Follows csrc/cpu/exact_flips.cpp: bits are drawn at a rate at which at least ``flips`` of them
    are very likely, and those with the lowest random priorities are chosen.
    """
    total = sum(words * mask.bit_count() for words, mask, _ in tensors)
    inverted = flips > total // 2
    n = total - flips if inverted else flips
    if flips == 0:
        return []
    probability = 0.5
    while probability / 2 >= (float(n) + 5.0 * math.sqrt(n) + 13.0) / float(total):
        probability /= 2
    for attempt in range(64):
        candidates = []
        for tensor, (words, mask, stream) in enumerate(tensors):
            exposed = bit_numbers(mask)
            first_draw = 1024 * attempt
            for block, first_word, drawn in _drawn_positions(
                words, len(exposed), probability, seed, trial, stream, first_draw
            ):
                priorities = _block_words(seed, trial, stream, block, first_draw + 512)
                for position in drawn:
                    priority = next(priorities) | next(priorities) << 32
                    word, rank = divmod(position, len(exposed))
                    if first_word + word < words:
                        candidates.append((priority, (tensor, first_word + word, exposed[rank])))
        if len(candidates) >= n:
            break
    limit = sorted(range(len(candidates)), key=lambda i: candidates[i][0])[:n]
    chosen = [candidates[i][1] for i in sorted(limit)]
    if not inverted:
        return chosen
    kept = set(chosen)
    return [
        (tensor, element, bit)
        for tensor, (words, mask, _) in enumerate(tensors)
        for element in range(words)
        for bit in bit_numbers(mask)
        if (tensor, element, bit) not in kept
    ]


class ReferenceFlipLog:
    """A flip log with the interface of the native ``FlipLog``; see `proact.ops.plan.FlipLog`."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int]] = []
        self._memory: dict[int, NDArray[np.unsignedinteger] | None] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def tensors(self) -> list[int]:
        return sorted({tensor for tensor, *_ in self.rows})

    def restore(self, threads: int = 1) -> None:
        for tensor, element, _, before in reversed(self.rows):
            memory = self._memory.get(tensor)  # flips that were only drawn have none
            if memory is not None:
                memory[element] = before

    def relocate(self, moved: list[tuple[int, int, int]]) -> None:
        """Directs `restore` to memory that moved: (address before, bytes, address now or 0)."""
        now_at = {before: now for before, _, now in moved}
        for tensor, memory in self._memory.items():
            address = 0 if memory is None else memory.ctypes.data
            if memory is not None and address in now_at:
                now = now_at[address]
                self._memory[tensor] = _memory(now, memory.size, memory.itemsize) if now else None

    def columns(
        self,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint64]]:
        def column(index: int) -> list[int]:
            return [row[index] for row in self.rows]

        return (
            np.array(column(0), np.uint32),
            np.array(column(1), np.uint64),
            np.array(column(2), np.uint8),
            np.array(column(3), np.uint64),
        )


class ReferenceFaultPlan:
    """A fault plan with the interface of the native ``FaultPlan``."""

    def __init__(self) -> None:
        self._tensors: list[tuple[int, int, int, int, int, Form | None]] = []
        self._is_read = True

    def add(
        self,
        address: int,
        words: int,
        word_bytes: int,
        stream: int,
        mask: int,
        form: tuple[str | int, ...] = (),
    ) -> None:
        self._is_read = form[:1] != ("unread",)
        stored = form_of(form) if self._is_read else None
        self._tensors.append((address, words, word_bytes, stream, mask, stored))

    def exposed_bits(self) -> int:
        return sum(words * mask.bit_count() for _, words, _, _, mask, _ in self._tensors)

    def replay_undoes(self) -> bool:
        extents = sorted((a, a + words * width) for a, words, width, *_ in self._tensors if words)
        apart = all(end <= begin for (_, end), (begin, _) in pairwise(extents))
        return apart and not any(
            isinstance(form, Fixed) and form.word_bits > (24 if word_bytes == 4 else 53)
            for _, _, word_bytes, _, _, form in self._tensors
        )

    def new_log(self) -> ReferenceFlipLog:
        return ReferenceFlipLog()

    def flip_into(
        self,
        log: ReferenceFlipLog,
        ber: float,
        seed: int,
        trial: int,
        threads: int = 1,
        isa: str = "",
    ) -> None:
        for index, (_, words, _, stream, mask, _) in enumerate(self._tensors):
            self._flip(log, index, flipped_bits(words, mask, ber, seed, trial, stream))

    def flip_exactly_into(self, log: ReferenceFlipLog, flips: int, seed: int, trial: int) -> None:
        tensors = [(words, mask, stream) for _, words, _, stream, mask, _ in self._tensors]
        chosen = exactly_flipped_bits(tensors, flips, seed, trial)
        for index in range(len(tensors)):
            self._flip(log, index, ((e, b) for tensor, e, b in chosen if tensor == index))

    def flip_places_into(
        self,
        log: ReferenceFlipLog,
        tensor: NDArray[np.uint32],
        element: NDArray[np.uint64],
        bit: NDArray[np.uint8],
    ) -> None:
        for index in range(len(self._tensors)):
            mine = tensor == index
            self._flip(log, index, zip(element[mine].tolist(), bit[mine].tolist(), strict=True))

    def _flip(self, log: ReferenceFlipLog, index: int, places: Iterable[tuple[int, int]]) -> None:
        address, words, word_bytes, _, _, form = self._tensors[index]
        if not self._is_read:
            log.rows.extend((index, element, bit, 0) for element, bit in places)
            return
        memory = _memory(address, words, word_bytes)
        stored: dict[int, int] = {}
        for element, bit in places:
            before = int(memory[element])
            log.rows.append((index, element, bit, before))
            log._memory[index] = memory
            if form is None:
                memory[element] = before ^ (1 << bit)
            else:
                if element not in stored:
                    stored[element] = form.stored(before, word_bytes, element)
                stored[element] ^= 1 << bit
                memory[element] = form.memory(stored[element], word_bytes, element)

    def flip_unlogged(self, ber: float, seed: int, trial: int, threads: int = 1) -> int:
        log = ReferenceFlipLog()
        self.flip_into(log, ber, seed, trial)
        return len(log)


def _memory(address: int, words: int, word_bytes: int) -> NDArray[np.unsignedinteger]:
    kind = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
    return np.ctypeslib.as_array((kind[word_bytes] * words).from_address(address))
