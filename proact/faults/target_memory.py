"""Targets: parts of the fault space in which flips are drawn, made and undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.encodings.base import Words
from proact.encodings.coded_word import CodedWord
from proact.encodings.scaled_words import owner_of
from proact.faults.changed_scales import FlipsWithScales, scale_plan, scaled_tensors
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.overwritten_words import (
    OverwrittenWords,
    check_in_place,
    memory_words,
    rows_by_tensor,
)
from proact.faults.reversible_flips import PendingFlips, ReversibleFlips
from proact.ops.plan import FlipColumns, FlipLog, FlipPlaces, FlipPlan


class Target:
    """Tensors that one fault hits at one rate.

    Native code makes the flips if it knows the stored form of every tensor. Otherwise numpy makes
    them, word by word through the encoding.
    """

    def __init__(self, exposed: Sequence[ExposedTensor]) -> None:
        self.exposed = list(exposed)
        self.bits = sum(tensor.bits for tensor in self.exposed)
        #: The plan whose native call draws and makes the flips; None if numpy makes them.
        self.plan = native_plan(self.exposed)
        scaled = scaled_tensors(self.exposed)
        self._scaled, self.has_scales = list(scaled), bool(scaled)
        #: The plan by which native code reads numbers again whose scales were flipped.
        self.scale_plan = scale_plan(scaled, self.plan)
        self._draws: FlipPlan | None = None
        #: The tensors of the model that hold the exposed words, or have the exposed scales.
        self.stored = [owner_of(each.stored) for each in self.exposed]
        self.addresses = [stored.tensor.data_ptr() for stored in self.stored]
        #: The tensors; None in place of those without a version counter, inference tensors.
        self._versioned = [None if s.tensor.is_inference() else s.tensor for s in self.stored]

    def versioned(self, numbers: Sequence[int]) -> list[Tensor]:
        """The tensors of the given numbers that have a version counter, each once."""
        versioned = self._versioned
        found = [tensor for number in numbers if (tensor := versioned[number]) is not None]
        return list({id(tensor): tensor for tensor in found}.values()) if self.has_scales else found

    @property
    def draws(self) -> FlipPlan:
        """A plan of the same tensors that draws flips without touching memory."""
        if self._draws is None:
            self._draws = FlipPlan()
            for tensor in self.exposed:
                self._draws.add_unread(tensor.elements, tensor.stream, tensor.mask)
        return self._draws

    def flips_at(self, ber: float, seed: int, trial: int, is_checked: bool = False) -> PendingFlips:
        """Flips of each exposed bit with probability ``ber``, not made yet.

        ``is_checked`` tells that the caller has just seen the memory in its place.
        """
        if self.plan is None:
            return self.flips_of(self.draws.flip(ber, seed, trial).columns().places)
        plan, log = self.plan, FlipLog(self.plan, is_checked)
        return self._with_scales(log, lambda: plan.flip_into(log, ber, seed, trial))

    def flips_of(self, places: FlipPlaces) -> PendingFlips:
        """Flips of the given bits, not made yet."""
        if self.plan is None:
            placed = PlacedFlips(self.exposed, places)
            return self._with_scales(placed, placed.flip)
        plan, log = self.plan, FlipLog(self.plan)
        return self._with_scales(log, lambda: plan.flip_places_into(log, places))

    def _with_scales(self, flips: ReversibleFlips, make: Callable[[], None]) -> PendingFlips:
        if not self.has_scales:
            return PendingFlips(flips, make)
        return FlipsWithScales(self.exposed, self._scaled, flips, self.scale_plan).pending(make)

    def drawn(self, columns: FlipColumns) -> FlipPlaces:
        """The stored bits of flips that `draws` drew."""
        return columns.places

    def stored_bits(self, places: FlipPlaces) -> NDArray[np.uint8]:
        """The stored bits at the given places: uint8 (n,), 0 or 1."""
        bits = np.empty(len(places.bit), np.uint8)
        for index, mine in rows_by_tensor(places.tensor):
            words = read_words(self.exposed[index], places.element[mine])[1]
            bits[mine] = words >> places.bit[mine].astype(np.uint64) & np.uint64(1)
        return bits


def mark_changed(tensors: list[Tensor]) -> None:
    """Raises the version counters of the tensors: autograd then notices changes of tensors that it
    saved."""
    if tensors:
        torch.autograd.graph.increment_version(tensors)


def native_plan(exposed: Sequence[ExposedTensor]) -> FlipPlan | None:
    """A plan that draws and makes flips by one native call; None if native code cannot do it."""
    devices = {tensor.tensor.device for tensor in exposed}
    forms = [tensor.word.form for tensor in exposed]
    if not all(tensor.word.is_native for tensor in exposed) or len(devices) > 1:
        return None
    plan = FlipPlan([tensor.name for tensor in exposed])
    for tensor, form in zip(exposed, forms, strict=True):
        plan.add(tensor.tensor, tensor.stream, _flippable(tensor), form)
    return plan


def _flippable(exposed: ExposedTensor) -> int:
    """The bits that native code may flip; in coded words the decoder decides which it flips."""
    word = exposed.word
    return word.format.all_bits if isinstance(word, CodedWord) else exposed.mask


class _Placed(NamedTuple):
    """Flips that were made in one tensor."""

    tensor: int  #: index of the tensor in the target
    rows: NDArray[np.intp]  #: indices of the flips in the ordered places
    element: NDArray[np.uint64]  #: the elements that were changed, each once
    memory: Words  #: the memory words of these elements before the flips


class PlacedFlips:
    """Flips of given places in words of any encoding, on any device."""

    def __init__(self, exposed: Sequence[ExposedTensor], places: FlipPlaces) -> None:
        self._exposed = exposed
        self._places = places.ordered()
        self._done: list[_Placed] = []
        self._words = OverwrittenWords()

    def flip(self) -> None:
        """Makes the flips; logs the old words of a tensor before changing them."""
        for exposed in self._exposed:
            check_in_place(exposed.name, exposed.tensor)
        for index, mine in rows_by_tensor(self._places.tensor):
            exposed = self._exposed[index]
            element = self._places.element[mine]
            first = np.flatnonzero(np.diff(element, prepend=element[:1] + np.uint64(1)))
            once = element[first]
            memory, words = read_words(exposed, once)
            masks = np.uint64(1) << self._places.bit[mine].astype(np.uint64)
            faulty = words ^ np.bitwise_or.reduceat(masks, first)
            after = exposed.word.memory_of(faulty, exposed.tensor.dtype, once)
            self._done.append(_Placed(index, mine, once, memory))
            self._words.write(exposed.name, exposed.tensor, once, memory, after)

    def __len__(self) -> int:
        return sum(len(placed.rows) for placed in self._done)

    def tensors(self) -> list[int]:
        return [placed.tensor for placed in self._done]

    def restore(self) -> None:
        self._words.restore()

    def columns(self) -> FlipColumns:
        """As from a native log, except that ``before`` is the oldest memory for all flips of a
        word."""
        rows = np.concatenate([placed.rows for placed in self._done] or [np.empty(0, np.intp)])
        before = np.empty(len(rows), np.uint64)
        at = 0
        for placed in self._done:
            n, places = len(placed.rows), self._places.element[placed.rows]
            before[at : at + n] = placed.memory[np.searchsorted(placed.element, places)]
            at += n
        return FlipColumns(*self._places.take(rows), before)


def read_words(exposed: ExposedTensor, element: NDArray[np.uint64]) -> tuple[Words, Words]:
    """The memory words and the stored words at the given elements (n,)."""
    memory = memory_words(exposed.name, exposed.tensor, element)
    return memory, exposed.word.words_in(memory, exposed.tensor.dtype, element)
