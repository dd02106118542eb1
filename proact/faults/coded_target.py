"""Targets whose stored words carry check bits: flips are drawn, decoded, and the rest is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from proact.encodings.base import Words
from proact.encodings.coded_word import CodedWord
from proact.faults.changed_scales import FlipsWithScales
from proact.faults.decoding import DecodedCodewords, Decoding, decode
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.overwritten_words import rows_by_tensor
from proact.faults.reversible_flips import PendingFlips, ReversibleFlips
from proact.faults.target_memory import Target, read_words
from proact.ops.codeword_plan import CodewordPlan
from proact.ops.plan import FlipColumns, FlipPlaces, FlipPlan


class CodedTarget(Target):
    """Tensors of which at least one is stored with a code, or that several faults hit together.

    Flips hit stored bits, check bits included. Codewords with no more flips than the code corrects
    are dropped without being looked at; the others are decoded, and memory gets the words that a
    reader would see.
    """

    def __init__(self, exposed: Sequence[ExposedTensor]) -> None:
        super().__init__(exposed)
        self.has_codes = any(isinstance(each.word, CodedWord) for each in self.exposed)
        self._codewords: CodewordPlan | None = None
        #: The tensor of each entry of `draws`, and whether the entry holds its check words.
        self._drawn: list[tuple[int, bool]] = []

    @property
    def draws(self) -> FlipPlan:
        if self._draws is None:
            self._draws = FlipPlan()
            for number, tensor in enumerate(self.exposed):
                for memory in tensor.memories:
                    self._draws.add_unread(memory.words, memory.stream, memory.mask)
                    self._drawn.append((number, memory.first_bit > 0))
        return self._draws

    def drawn(self, columns: FlipColumns) -> FlipPlaces:
        tensor = np.empty(len(columns.bit), np.uint32)
        element, bit = columns.element.copy(), columns.bit.copy()
        for entry, rows in rows_by_tensor(columns.tensor):
            number, is_check = self._drawn[entry]
            tensor[rows] = number
            if is_check:
                exposed = self.exposed[number]
                element[rows] *= np.uint64(exposed.words_per_check)
                bit[rows] += np.uint8(exposed.memories[-1].first_bit)
        return FlipPlaces(tensor, element, bit)

    @property
    def codewords(self) -> CodewordPlan:
        """The plan that draws flips and drops codewords that the code corrects for certain."""
        if self._codewords is None:
            self._codewords = _codeword_plan(self.exposed)
        return self._codewords

    def flips_at(self, ber: float, seed: int, trial: int, is_checked: bool = False) -> PendingFlips:
        found = self.codewords.draw(ber, seed, trial)

        def raw() -> FlipPlaces:
            return self.drawn(self.draws.flip(ber, seed, trial).columns())

        return self._left_after(decode(self.exposed, found.places), raw, found.flips, found.dropped)

    def flips_of(self, places: FlipPlaces) -> PendingFlips:
        decoding = decode(self.exposed, places)
        return self._left_after(decoding, lambda: places, len(places.bit), 0)

    def flips_of_several(self, parts: Sequence[tuple[Target, FlipPlaces]]) -> PendingFlips:
        """Flips of given bits of several targets, not made yet.

        A bit that is given an even number of times has its original value again.
        """
        numbers = {tensor.name: number for number, tensor in enumerate(self.exposed)}
        rows = np.concatenate([_rows(numbers, target, places) for target, places in parts])
        distinct, times = np.unique(rows, return_counts=True, axis=0)
        decoding = decode(self.exposed, _places_of(distinct[times % 2 == 1]))
        return self._left_after(decoding, lambda: _places_of(rows), len(rows), 0)

    def stored_bits(self, places: FlipPlaces) -> NDArray[np.uint8]:
        bits = np.empty(len(places.bit), np.uint8)
        for index, mine in rows_by_tensor(places.tensor):
            exposed = self.exposed[index]
            element, bit = places.element[mine], places.bit[mine].astype(np.uint64)
            if isinstance(exposed.word, CodedWord):
                words = _stored_words(exposed, exposed.word, element, bit)
                bit = np.where(bit >= exposed.word.format.bits, bit - exposed.word.format.bits, bit)
            else:
                words = read_words(exposed, element)[1]
            bits[mine] = words >> bit & np.uint64(1)
        return bits

    def _left_after(
        self, decoding: Decoding, raw: Callable[[], FlipPlaces], flips: int, dropped: int
    ) -> PendingFlips:
        left = super().flips_of(decoding.residual)
        decoded = DecodedFlips(self, raw, flips, dropped, decoding.codewords, left.flips)
        return PendingFlips(decoded, left.apply)


class DecodedFlips:
    """Flips in coded words, of which memory holds what the code did not correct.

    Attributes:
        has_codes: whether at least one tensor is stored with a code.
        dropped: the number of codewords with flips that the code corrects for certain.
        codewords: the codewords that were decoded.
        left: the flips of memory that are left after decoding.
    """

    def __init__(
        self,
        target: CodedTarget,
        raw: Callable[[], FlipPlaces],
        flips: int,
        dropped: int,
        codewords: DecodedCodewords,
        left: ReversibleFlips,
    ) -> None:
        self._target, self._raw, self._flips = target, raw, flips
        self._columns: FlipColumns | None = None
        self.has_codes = target.has_codes
        self.dropped, self.codewords, self.left = dropped, codewords, left

    def __len__(self) -> int:
        """The number of flipped stored bits."""
        return self._flips

    def tensors(self) -> Sequence[int]:
        return self.left.tensors()

    def restore(self) -> None:
        self.left.restore()

    def columns(self) -> FlipColumns:
        """The flips of stored bits; ``before`` is the clean memory word of the element."""
        if self._columns is None:
            places = self._raw()
            self._columns = FlipColumns(*places, self._clean_memory(places))
        return self._columns

    def words_after(self, index: int, element: NDArray[np.uint64], before: Words) -> Words:
        """The words of the format that a reader sees at elements of a tensor.

        Args:
            index: the number of the tensor.
            element: the elements, uint64 (n,).
            before: their words before the faults, uint64 (n,).
        """
        left = self.left.columns()
        rows = left.tensor == index
        changed, at = np.unique(left.element[rows], return_inverse=True)
        masks = np.zeros(len(changed), np.uint64)
        np.bitwise_xor.at(masks, at, np.uint64(1) << left.bit[rows].astype(np.uint64))
        if not len(changed):
            return before
        found = np.minimum(np.searchsorted(changed, element), len(changed) - 1)
        return before ^ np.where(changed[found] == element, masks[found], np.uint64(0))

    def outcomes(self, places: FlipPlaces) -> NDArray[np.uint8]:
        """The outcome of the codeword of each flip, as a position in `OUTCOMES`: uint8 (n,)."""
        outcomes = np.zeros(len(places.bit), np.uint8)
        for index, rows in rows_by_tensor(places.tensor):
            mine = self.codewords.tensor == index
            begins, outcome = self.codewords.element[mine], self.codewords.outcome[mine]
            if not len(begins):
                continue
            order = np.argsort(begins)
            begins, outcome = begins[order], outcome[order]
            wanted = _beginnings(self._target.exposed[index], places.element[rows])
            found = np.minimum(np.searchsorted(begins, wanted), len(begins) - 1)
            outcomes[rows] = np.where(begins[found] == wanted, outcome[found], 0)
        return outcomes

    def _clean_memory(self, places: FlipPlaces) -> Words:
        """The memory words of elements before the faults, whether or not these are undone yet."""
        memory = np.empty(len(places.bit), np.uint64)
        for index, rows in rows_by_tensor(places.tensor):
            exposed, element = self._target.exposed[index], places.element[rows]
            memory[rows] = read_words(exposed, element)[0]
            if isinstance(self.left, FlipsWithScales):
                memory[rows] = self.left.before_scales(exposed.stored, element, memory[rows])
        left = self.left.columns()
        for index, rows in rows_by_tensor(left.tensor):
            # Of several flips in a word, the first has the clean word.
            changed, first = np.unique(left.element[rows], return_index=True)
            before = left.before[rows][first]
            mine = np.flatnonzero(places.tensor == index)
            found = np.minimum(np.searchsorted(changed, places.element[mine]), len(changed) - 1)
            is_changed = changed[found] == places.element[mine]
            memory[mine[is_changed]] = before[found[is_changed]]
        return memory


def flipped_before(
    target: Target, places: FlipPlaces, parts: Sequence[tuple[Target, FlipPlaces]]
) -> NDArray[np.uint8]:
    """Whether earlier faults leave each bit of ``target`` flipped: uint8 (n,), 0 or 1."""
    numbers = {tensor.name: number for number, tensor in enumerate(target.exposed)}
    flipped = np.zeros(len(places.bit), np.uint8)
    mine = {tuple(row): at for at, row in enumerate(_rows(numbers, target, places).tolist())}
    for earlier, its_places in parts:
        for row in _rows(numbers, earlier, its_places).tolist():
            if (at := mine.get(tuple(row))) is not None:
                flipped[at] ^= 1
    return flipped


def _rows(numbers: Mapping[str, int], target: Target, places: FlipPlaces) -> NDArray[np.uint64]:
    """The (tensor, element, bit) of each place, (n, 3), with tensors numbered by name.

    Tensors without a number get one that no tensor has.
    """
    number = np.array([numbers.get(e.name, len(numbers)) for e in target.exposed], np.uint64)
    return np.stack([number[places.tensor], places.element, places.bit.astype(np.uint64)], axis=1)


def _places_of(rows: NDArray[np.uint64]) -> FlipPlaces:
    return FlipPlaces(rows[:, 0].astype(np.uint32), rows[:, 1].copy(), rows[:, 2].astype(np.uint8))


def _codeword_plan(exposed: Sequence[ExposedTensor]) -> CodewordPlan:
    plan = CodewordPlan()
    for tensor in exposed:
        word = tensor.word
        if not isinstance(word, CodedWord):
            plan.add(tensor.elements, tensor.stream, tensor.mask, word_bits=word.bits)
            continue
        code = word.fitted.code
        check = next((m for m in tensor.memories if m.first_bit), None)
        plan.add(
            tensor.elements,
            tensor.stream,
            tensor.mask & word.format.all_bits,
            word_bits=word.format.bits,
            words=code.words,
            corrects=code.corrects,
            check_stream=0 if check is None else check.stream,
            check_mask=0 if check is None else check.mask,
            singles=word.singles,
        )
    return plan


def _beginnings(exposed: ExposedTensor, element: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The first element of the codeword of each element."""
    word = exposed.word
    if not isinstance(word, CodedWord):
        return element
    begins = element - element % np.uint64(word.fitted.code.words)
    return np.where(element >= np.uint64(word.singles), element, begins)


def _stored_words(
    exposed: ExposedTensor, word: CodedWord, element: NDArray[np.uint64], bit: Words
) -> Words:
    """The clean stored words that hold the given bits: words of the tensor, or check words."""
    result = np.empty(len(element), np.uint64)
    in_rest = element >= np.uint64(word.singles)
    for code, rows in ((word.fitted.code, ~in_rest), (word.fitted.rest, in_rest)):
        if code is None or not rows.any():
            continue
        begins = _beginnings(exposed, element[rows])
        members = begins[:, None] + np.arange(code.words, dtype=np.uint64)
        is_stored = members < np.uint64(exposed.elements)
        words = np.zeros(members.shape, np.uint64)
        words[is_stored] = read_words(exposed, members[is_stored])[1]
        stored, check = code.encode(words)
        position = (element[rows] - begins).astype(np.intp)
        of_words = stored[np.arange(len(begins)), position]
        result[rows] = np.where(bit[rows] >= word.format.bits, check, of_words)
    return result
