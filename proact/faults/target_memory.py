"""Targets: parts of the fault space in which flips are drawn, made and undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.encodings.base import Words, integers_of, signed_memory, unsigned_memory
from proact.encodings.coded import CodedWord
from proact.errors import ProactError
from proact.faults.space import ExposedTensor
from proact.ops.cuda_stream import FlipStream
from proact.ops.number_formats import FixedPointWord
from proact.ops.plain_memory import (
    has_plain_memory,
    is_writable,
    lack_of_memory,
    refuse_lost,
)
from proact.ops.plan import FlipColumns, FlipLog, FlipPlaces, FlipPlan


class ReversibleFlips(Protocol):
    """Flips that were made and can be undone."""

    def __len__(self) -> int: ...
    def tensors(self) -> Sequence[int]:
        """The numbers of the tensors that may have changed, each once."""

    def restore(self) -> None: ...
    def columns(self) -> FlipColumns: ...


class PendingFlips(NamedTuple):
    """Flips that are drawn but not made yet.

    ``apply`` makes them; if it is interrupted, ``flips.restore()`` undoes those that were made.
    """

    flips: ReversibleFlips
    apply: Callable[[], None]

    def applied(self) -> ReversibleFlips:
        self.apply()
        return self.flips


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
        self._draws: FlipPlan | None = None
        self.addresses = [tensor.tensor.data_ptr() for tensor in self.exposed]
        #: The tensors; None in place of those without a version counter, inference tensors.
        self._versioned = [None if e.tensor.is_inference() else e.tensor for e in self.exposed]

    def versioned(self, numbers: Sequence[int]) -> list[Tensor]:
        """The tensors of the given numbers that have a version counter."""
        versioned = self._versioned
        return [tensor for number in numbers if (tensor := versioned[number]) is not None]

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
        return PendingFlips(log, lambda: plan.flip_into(log, ber, seed, trial))

    def flips_of(self, places: FlipPlaces) -> PendingFlips:
        """Flips of the given bits, not made yet."""
        on_cpu = all(exposed.tensor.device.type == "cpu" for exposed in self.exposed)
        if self.plan is None or not on_cpu:
            placed = PlacedFlips(self.exposed, places)
            return PendingFlips(placed, placed.flip)
        plan, log = self.plan, FlipLog(self.plan)
        return PendingFlips(log, lambda: plan.flip_places_into(log, places))

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
    is_on_gpu = any(device.type == "cuda" for device in devices)
    forms = [tensor.word.form for tensor in exposed]
    if (
        not all(tensor.word.is_native for tensor in exposed)
        or len(devices) > 1
        or (is_on_gpu and not all(f is None or isinstance(f, FixedPointWord) for f in forms))
    ):
        return None
    plan = FlipPlan([tensor.name for tensor in exposed])
    for tensor, form in zip(exposed, forms, strict=True):
        plan.add(tensor.tensor, tensor.stream, _flippable(tensor), form)
    return plan


def _flippable(exposed: ExposedTensor) -> int:
    """The bits that native code may flip; in coded words the decoder decides which it flips."""
    word = exposed.word
    return word.format.all_bits if isinstance(word, CodedWord) else exposed.mask


class _Written(NamedTuple):
    """Flips that were made in one tensor."""

    tensor: int  #: index of the tensor in the target
    rows: NDArray[np.intp]  #: indices of the flips in the ordered places
    element: NDArray[np.uint64]  #: the elements that were changed, each once
    memory: Words  #: the memory words of these elements before the flips
    stream: FlipStream  #: the stream on which they were changed


class PlacedFlips:
    """Flips of given places in words of any encoding, on any device."""

    def __init__(self, exposed: Sequence[ExposedTensor], places: FlipPlaces) -> None:
        self._exposed = exposed
        self._places = places.ordered()
        self._done: list[_Written] = []

    def flip(self) -> None:
        """Makes the flips; logs the old words of a tensor before changing them."""
        for exposed in self._exposed:
            check_in_place(exposed)
        for index, mine in rows_by_tensor(self._places.tensor):
            exposed = self._exposed[index]
            element = self._places.element[mine]
            first = np.flatnonzero(np.diff(element, prepend=element[:1] + np.uint64(1)))
            once = element[first]
            memory, words = read_words(exposed, once)
            masks = np.uint64(1) << self._places.bit[mine].astype(np.uint64)
            faulty = words ^ np.bitwise_or.reduceat(masks, first)
            dtype = exposed.tensor.dtype
            stream = FlipStream(exposed.tensor.device)
            self._done.append(_Written(index, mine, once, memory, stream))
            _write(exposed, once, exposed.word.memory_of(faulty, dtype, once))

    def __len__(self) -> int:
        return sum(len(written.rows) for written in self._done)

    def tensors(self) -> list[int]:
        return [written.tensor for written in self._done]

    def restore(self) -> None:
        """Writes the old words back, even if the memory has changed since.

        Raises:
            ProactError: memory that was freed. All words elsewhere are restored.
        """
        lost = []
        for written in reversed(self._done):
            exposed = self._exposed[written.tensor]
            if has_plain_memory(exposed.tensor) and is_writable(exposed.tensor):
                with written.stream.ordered():
                    _write(exposed, written.element, written.memory)
            else:
                lost.append(exposed.name)
        refuse_lost(lost)

    def columns(self) -> FlipColumns:
        """As from a native log, except that ``before`` is the oldest memory for all flips of a
        word."""
        rows = np.concatenate([w.rows for w in self._done] or [np.empty(0, np.intp)])
        before = np.empty(len(rows), np.uint64)
        at = 0
        for written in self._done:
            n, places = len(written.rows), self._places.element[written.rows]
            before[at : at + n] = written.memory[np.searchsorted(written.element, places)]
            at += n
        return FlipColumns(*self._places.take(rows), before)


def rows_by_tensor(tensor: NDArray[np.uint32]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """The tensors that occur, each with its rows in their order."""
    order = np.argsort(tensor, kind="stable")
    numbers, begins = np.unique(tensor[order], return_index=True)
    for number, rows in zip(numbers, np.split(order, begins)[1:], strict=True):
        yield int(number), rows


def check_in_place(exposed: ExposedTensor) -> None:
    """ProactError if the memory of a tensor was freed after the tensor was exposed."""
    lack = lack_of_memory(exposed.tensor)
    if lack is not None:
        raise ProactError(f"the memory of {exposed.name} can no longer be faulted: it is {lack}")


def read_words(exposed: ExposedTensor, element: NDArray[np.uint64]) -> tuple[Words, Words]:
    """The memory words and the stored words at the given elements (n,)."""
    check_in_place(exposed)
    flat = integers_of(exposed.tensor.view(-1))
    if flat.is_cuda:
        raw = flat[torch.from_numpy(element.astype(np.int64)).to(flat.device)].cpu().numpy()
    else:
        raw = flat.numpy()[element]
    memory = unsigned_memory(raw)
    return memory, exposed.word.words_in(memory, exposed.tensor.dtype, element)


def _write(exposed: ExposedTensor, element: NDArray[np.uint64], memory: Words) -> None:
    flat = integers_of(exposed.tensor.view(-1))
    raw = signed_memory(memory, flat.element_size())
    if flat.is_cuda:
        index = torch.from_numpy(element.astype(np.int64)).to(flat.device)
        flat[index] = torch.from_numpy(raw).to(flat.device)
    else:
        flat.numpy()[element] = raw  # torch refuses to write to inference tensors
