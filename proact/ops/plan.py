"""Flip plans: bit flips in many tensors by one native call, and logs that undo them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact import _native
from proact.errors import ProactError
from proact.limits import SEEDS, STREAMS, TRIALS
from proact.ops import _flip_reference, cuda_stream
from proact.ops._device_plan import DeviceFaultPlan
from proact.ops.number_formats import NumberFormat, UnreadWord
from proact.ops.plain_memory import MemoryGuard, address_of, checked_memory, refuse_lost
from proact.text import short_repr


class FlipPlaces(NamedTuple):
    """Bits in the tensors of a plan: columns of one length, with one row for each bit."""

    tensor: NDArray[np.uint32]  #: index in the plan
    element: NDArray[np.uint64]
    bit: NDArray[np.uint8]  #: of the stored word; 0 is the lowest

    @property
    def order(self) -> NDArray[np.intp]:
        """The rows ordered by tensor and element."""
        return np.lexsort((self.element, self.tensor))

    def ordered(self) -> FlipPlaces:
        """The bits ordered by tensor and element; ``self`` if they are ordered already."""
        before, after = slice(None, -1), slice(1, None)
        is_later = self.tensor[after] > self.tensor[before]
        is_same = self.tensor[after] == self.tensor[before]
        if (is_later | (is_same & (self.element[after] >= self.element[before]))).all():
            return self
        return self.take(self.order)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> FlipPlaces:
        """The given rows, in the given order."""
        return FlipPlaces(self.tensor[rows], self.element[rows], self.bit[rows])


class FlipColumns(NamedTuple):
    """Flips in the order in which they were made: columns with one row for each flip."""

    tensor: NDArray[np.uint32]  #: index in the plan
    element: NDArray[np.uint64]
    bit: NDArray[np.uint8]  #: of the stored word; 0 is the lowest
    before: NDArray[np.uint64]  #: the memory word just before this flip

    @property
    def places(self) -> FlipPlaces:
        return FlipPlaces(self.tensor, self.element, self.bit)


class FlipLog:
    """The flips of one trial. A log is empty until a plan fills it, and keeps the tensors alive."""

    def __init__(self, plan: FlipPlan, is_checked: bool = False) -> None:
        #: Whether the caller has just compared the memory of the tensors with the plan.
        self.is_checked = is_checked
        self._log: Any = plan._plan.new_log()
        self._plan = plan  # the log writes to its tensors

    def __len__(self) -> int:
        """The number of flips."""
        return len(self._log)

    def tensors(self) -> list[int]:
        """The plan indices of the tensors with flips, in ascending order; waits for no GPU."""
        found: list[int] = self._log.tensors()
        return found

    def restore(self, threads: int | None = None) -> None:
        """Writes the old word of every flipped position back, even if the memory has changed since.

        If the storage of a tensor has moved, the words are written where it is now. ``threads`` is
        as for `FlipPlan`.

        Raises:
            ProactError: memory that was freed. All words elsewhere are restored.
        """
        lost = self._plan._memory.follow(self._log, self._log.tensors())
        self._log.restore(checked_threads(threads))
        refuse_lost(lost)

    def columns(self) -> FlipColumns:
        """The flips; on a GPU this waits until they have been made."""
        return FlipColumns(*self._log.columns())


class FlipPlan:
    """Tensors of one device, in which one native call makes all flips.

    Each use checks that the memory of the tensors is still where it was, and raises ProactError
    otherwise. In all methods, ``ber`` is a probability
    per exposed bit in [0, 1]; (``seed``, ``trial``) identify the fault pattern, with seed in
    [0, 2^63) and trial in [0, 2^32); ``threads`` is the largest number of CPU threads, torch's by
    default. The flips do not depend on ``threads``.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._plan: Any = _host_plan()
        self._names = names  # of the tensors in the order in which they are added, for errors
        self._device: torch.device | None = None
        self._memory = MemoryGuard()
        self._tensors = self._memory.tensors
        self._forms: list[NumberFormat | None] = []  # native code reads their scales

    def add(
        self,
        tensor: Tensor,
        stream: int,
        mask: int,
        form: NumberFormat | None,
    ) -> None:
        """Adds a dense tensor.

        Args:
            tensor: a contiguous tensor of any shape; its memory is flipped in place.
            stream: names the tensor in the sampler; in [0, 2^48).
            mask: the exposed bits of a stored word; bit 0 is the lowest.
            form: the stored form of the elements; None if memory holds the stored words.

        Raises:
            ValueError: the tensor is not on the device of the other tensors, or lacks plain memory
                that can be written (`checked_memory`).
            ProactError: a GPU that this build of proact cannot use.
        """
        if self._device is None and cuda_stream.is_on_gpu(tensor):
            self._plan = DeviceFaultPlan(tensor.device)
        elif self._device not in (None, tensor.device):
            raise ValueError(
                f"the tensors of a plan must be on one device, got {self._device} and "
                f"{tensor.device}"
            )
        number = len(self._tensors)
        name = self._names[number] if number < len(self._names) else "tensor"
        checked_memory(name, tensor)
        if form is not None and isinstance(self._plan, DeviceFaultPlan):
            form = form.on(tensor.device)
        self._plan.add(
            address_of(name, tensor),
            tensor.numel(),
            tensor.element_size(),
            stream,
            mask,
            form.native if form is not None else (),
        )
        self._device = tensor.device
        self._memory.add(name, tensor)
        self._forms.append(form)

    def add_unread(self, elements: int, stream: int, mask: int) -> None:
        """Adds a tensor by its size only: its flips are drawn and logged, but not made.

        All tensors of a plan are added by `add`, or all by `add_unread`.
        """
        form = UnreadWord(mask.bit_length())
        self._plan.add(0, elements, 1, stream, mask, form.native)

    @property
    def is_on_host(self) -> bool:
        """Whether compiled code makes the flips in host memory."""
        return _native.module is not None and isinstance(self._plan, _native.module.FaultPlan)

    @property
    def exposed_bits(self) -> int:
        """The number of exposed bits in all tensors."""
        bits: int = self._plan.exposed_bits()
        return bits

    def flip_into(
        self,
        log: FlipLog,
        ber: float,
        seed: int,
        trial: int,
        threads: int | None = None,
        isa: str = "",
    ) -> None:
        """Flips each exposed bit with probability ``ber``, independently.

        Each flip is logged before it is made, so that `FlipLog.restore` also undoes flips that were
        interrupted. ``isa`` selects one of the instruction sets of `proact.build_info`; the flips
        do not depend on it.
        """
        if not log.is_checked:
            self._memory.check()
        self._plan.flip_into(
            log._log, *checked_draw(ber, seed, trial), checked_threads(threads), isa
        )

    def flip(
        self, ber: float, seed: int, trial: int, threads: int | None = None, isa: str = ""
    ) -> FlipLog:
        """Like `flip_into`, with a new log; on an error the flips are undone."""
        log = FlipLog(self)
        try:
            self.flip_into(log, ber, seed, trial, threads, isa)
        except BaseException:
            log.restore()
            raise
        return log

    def flip_unlogged(self, ber: float, seed: int, trial: int, threads: int | None = None) -> int:
        """Like `flip_into`, without a log; returns the number of flips."""
        self._memory.check()
        flips: int = self._plan.flip_unlogged(
            *checked_draw(ber, seed, trial), checked_threads(threads)
        )
        return flips

    def flip_exactly(self, flips: int, seed: int, trial: int) -> FlipLog:
        """Flips exactly ``flips`` distinct exposed bits.

        Every such set is equally likely if the tensors have different streams.

        Raises:
            ValueError: more flips than exposed bits.
        """
        flips = checked_integer("flips", flips, STREAMS)
        if flips > self.exposed_bits:
            raise ValueError(
                f"flips must be at most {self.exposed_bits}, the exposed bits, got {flips}"
            )
        _, seed, trial = checked_draw(0.0, seed, trial)
        self._memory.check()
        log = FlipLog(self)
        try:
            self._plan.flip_exactly_into(log._log, flips, seed, trial)
        except BaseException:
            log.restore()
            raise
        return log

    def flip_places_into(self, log: FlipLog, places: FlipPlaces) -> None:
        """Flips the given distinct bits; the log lists them by tensor and element."""
        self._memory.check()
        self._plan.flip_places_into(log._log, *places.ordered())

    def undo_by_replay(self, ber: float, seed: int, trial: int, threads: int | None = None) -> int:
        """Undoes `flip_unlogged` by drawing the same flips again; returns their number.

        This needs no memory. It assumes that no flipped word was overwritten, and that fixed-point
        tensors are rounded to their words (and so hold no -0.0 and no NaN).

        Raises:
            ProactError: tensors that overlap, or fixed-point words with more digits than the float
                that holds them. Drawing again cannot undo such flips.
        """
        if not self._plan.replay_undoes():
            raise ProactError(
                "drawing the flips again cannot undo them, because tensors share memory or "
                "fixed-point words have more digits than their floats: keep a log"
            )
        return self.flip_unlogged(ber, seed, trial, threads)


def _host_plan() -> Any:
    """A new plan for host memory."""
    module = _native.module
    return _flip_reference.ReferenceFaultPlan() if module is None else module.FaultPlan()


def checked_threads(threads: int | None) -> int:
    if threads is None:
        return torch.get_num_threads()
    if checked_integer("threads", threads, 1 << 16) == 0:
        raise ValueError("threads must be 1 or more, got 0")
    return threads


def checked_draw(ber: float, seed: int, trial: int) -> tuple[float, int, int]:
    return (
        checked_ber(ber),
        checked_integer("seed", seed, SEEDS),
        checked_integer("trial", trial, TRIALS),
    )


def checked_ber(ber: float) -> float:
    """``ber`` as a float; ValueError for NaN or outside [0, 1], TypeError for another type."""
    if type(ber) is float and 0.0 <= ber <= 1.0:
        return ber  # each trial of a campaign passes here
    if isinstance(ber, bool) or not isinstance(ber, (int, float, np.floating, np.integer)):
        raise TypeError(f"a bit error rate is a number in [0, 1], got {short_repr(ber)}")
    if not 0.0 <= ber <= 1.0:
        raise ValueError(f"a bit error rate lies in [0, 1] per stored bit, got {short_repr(ber)}")
    return float(ber)


def checked_integer(name: str, value: int, limit: int) -> int:
    """``value`` as an int; TypeError for another type, ValueError outside [0, limit)."""
    if type(value) is int and 0 <= value < limit:
        return value  # each trial of a campaign passes here
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is an integer, got {short_repr(value)}")
    if not 0 <= value < limit:
        raise ValueError(f"{name} lies in [0, {limit}), got {short_repr(value)}")
    return int(value)
