"""Flips in many tensors by one native call, and their undoing."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses import FakeTensor

from proact import _native
from proact.errors import ProactError
from proact.ops import _flip_reference
from proact.ops._device_plan import DeviceFaultPlan, DeviceFlipLog
from proact.ops.number_formats import NumberFormat, UnreadWord

#: Streams are the integers from 0 up to, but not including, this.
STREAMS = 1 << 48
#: Seeds are the integers from 0 up to, but not including, this (a torch integer is signed).
SEEDS = 1 << 63
#: Trials are the integers from 0 up to, but not including, this.
TRIALS = 1 << 32


class FlipPlaces(NamedTuple):
    """Bits of a plan's tensors, one row each, all columns of one length."""

    tensor: NDArray[np.uint32]  #: index in the plan
    element: NDArray[np.uint64]
    bit: NDArray[np.uint8]  #: of the stored word, 0 the lowest

    @property
    def order(self) -> NDArray[np.intp]:
        """The rows ordered by tensor and element."""
        return np.lexsort((self.element, self.tensor))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> FlipPlaces:
        """These rows, in their order."""
        return FlipPlaces(self.tensor[rows], self.element[rows], self.bit[rows])


class FlipColumns(NamedTuple):
    """One row a flip, in the order in which they were made."""

    tensor: NDArray[np.uint32]  #: index in the plan
    element: NDArray[np.uint64]
    bit: NDArray[np.uint8]  #: of the stored word, 0 the lowest
    before: NDArray[np.uint64]  #: the memory word just before this flip

    @property
    def places(self) -> FlipPlaces:
        return FlipPlaces(self.tensor, self.element, self.bit)


def stream_of(name: str) -> int:
    """The stream of a tensor: the first 48 bits of the SHA-256 of its qualified name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


class FlipLog:
    """The flips of one trial, empty until a plan fills it. Keeps the tensors alive."""

    def __init__(self, plan: FlipPlan) -> None:
        self._log: Any = plan._new_log()
        self._plan = plan._plan
        self._tensors = plan._tensors  # whose memory the log writes to
        self._forms = plan._forms

    def __len__(self) -> int:
        """The number of flips."""
        return len(self._log)

    def __del__(self) -> None:
        # The next trial's log takes the memory.
        if hasattr(self, "_plan"):
            self._plan.recycle(self._log)

    def restore(self, threads: int | None = None) -> None:
        """Writes the old word of every flipped position back, whatever stands there now."""
        self._log.restore(_threads(threads))

    def columns(self) -> FlipColumns:
        return FlipColumns(*self._log.columns())


class FlipPlan:
    """Tensors of one device prepared for flips, all of them by one native call.

    Checks belong to the caller: see `add`. ``threads`` is the largest number of CPU threads to
    use, torch's by default; it changes no flip.
    """

    def __init__(self) -> None:
        self._plan: Any = _host_plan()
        self._tensors: list[Tensor] = []
        self._forms: list[NumberFormat | None] = []  # whose scales native code reads

    def add(self, tensor: Tensor, stream: int, mask: int, form: NumberFormat | None) -> None:
        """Adds a dense tensor; ``mask`` holds the exposed bits of a stored word.

        ValueError for a second device; ProactError for a GPU that this build cannot use. On a GPU
        the form is fixed point or None.
        """
        if not self._tensors and tensor.is_cuda:
            self._plan = DeviceFaultPlan(tensor.device)
        elif self._tensors and tensor.device != self._tensors[0].device:
            raise ValueError(
                f"a plan's tensors are on one device, got {self._tensors[0].device} and "
                f"{tensor.device}"
            )
        self._plan.add(
            tensor.data_ptr(),
            tensor.numel(),
            tensor.element_size(),
            stream,
            mask,
            form.native if form is not None else (),
        )
        self._tensors.append(tensor)
        self._forms.append(form)

    def add_unread(self, elements: int, stream: int, mask: int) -> None:
        """Adds a tensor by its size alone: its flips are drawn and logged, and not made.

        A plan has tensors of this kind or of the other, not both.
        """
        form = UnreadWord(mask.bit_length())
        self._plan.add(0, elements, 1, stream, mask, form.native)

    def _new_log(self) -> Any:
        if isinstance(self._plan, DeviceFaultPlan):
            return DeviceFlipLog()
        return (
            _flip_reference.ReferenceFlipLog()
            if _native.module is None
            else _native.module.FlipLog()
        )

    @property
    def exposed_bits(self) -> int:
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
        """Logs each flip before it makes it: an interruption leaves a log that restores.

        ``isa`` names one of the instruction sets of `proact.build_info`; it changes no flip.
        """
        self._plan.flip_into(log._log, *_checked(ber, seed, trial), _threads(threads), isa)

    def flip(
        self, ber: float, seed: int, trial: int, threads: int | None = None, isa: str = ""
    ) -> FlipLog:
        log = FlipLog(self)
        try:
            self.flip_into(log, ber, seed, trial, threads, isa)
        except BaseException:
            log.restore()
            raise
        return log

    def flip_unlogged(self, ber: float, seed: int, trial: int, threads: int | None = None) -> int:
        """Flips without keeping what was there; returns the number of flips."""
        flips: int = self._plan.flip_unlogged(*_checked(ber, seed, trial), _threads(threads))
        return flips

    def flip_exactly(self, flips: int, seed: int, trial: int) -> FlipLog:
        """Flips exactly so many distinct exposed bits; every such set is equally likely, given
        that the tensors have different streams.

        ValueError for more flips than exposed bits.
        """
        flips = checked_integer("flips", flips, STREAMS)
        if flips > self.exposed_bits:
            raise ValueError(f"flips is at most {self.exposed_bits}, the exposed bits, got {flips}")
        _, seed, trial = _checked(0.0, seed, trial)
        log = FlipLog(self)
        try:
            self._plan.flip_exactly_into(log._log, flips, seed, trial)
        except BaseException:
            log.restore()
            raise
        return log

    def flip_places_into(self, log: FlipLog, places: FlipPlaces) -> None:
        """Flips the given bits, which are distinct; the log has them in the order of their tensors
        and elements."""
        self._plan.flip_places_into(log._log, *places.take(places.order))

    def undo_by_replay(self, ber: float, seed: int, trial: int, threads: int | None = None) -> int:
        """Flips the bits of ``flip_unlogged`` back, by drawing them again; returns their number.

        Takes no memory, and trusts that nothing wrote over a flipped word and that fixed-point
        tensors hold what their words decode to (they are rounded, and have no -0.0 or NaN).
        ProactError where it could not work even so: tensors that overlap, and fixed-point words of
        more digits than the float that stands for them.
        """
        if not self._plan.replay_undoes():
            raise ProactError(
                "drawing the flips again does not undo them here (tensors that share memory, or "
                "fixed-point words of more digits than their floats): keep a log"
            )
        return self.flip_unlogged(ber, seed, trial, threads)


def _host_plan() -> Any:
    return (
        _flip_reference.ReferenceFaultPlan()
        if _native.module is None
        else _native.module.FaultPlan()
    )


def _threads(threads: int | None) -> int:
    if threads is None:
        return torch.get_num_threads()
    if checked_integer("threads", threads, 1 << 16) == 0:
        raise ValueError("threads is 1 or more, got 0")
    return threads


def _checked(ber: float, seed: int, trial: int) -> tuple[float, int, int]:
    return (
        checked_ber(ber),
        checked_integer("seed", seed, SEEDS),
        checked_integer("trial", trial, TRIALS),
    )


def checked_ber(ber: float) -> float:
    """``ber`` as a float; ValueError outside [0, 1] or NaN, TypeError for no number."""
    if isinstance(ber, bool) or not isinstance(ber, (int, float, np.floating, np.integer)):
        raise TypeError(f"a bit error rate is a number in [0, 1], got {ber!r}")
    if not 0.0 <= ber <= 1.0:
        raise ValueError(f"a bit error rate lies in [0, 1] per stored bit, got {ber!r}")
    return float(ber)


def checked_integer(name: str, value: int, limit: int) -> int:
    """``value`` where 0 <= value < limit, else an error that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is an integer, got {value!r}")
    if not 0 <= value < limit:
        raise ValueError(f"{name} lies in [0, {limit}), got {value}")
    return int(value)


def checked_memory(name: str, tensor: Tensor) -> None:
    """Refuses tensors whose memory cannot be faulted in place."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        raise ValueError(
            f"{name} has no plain memory to flip bits in ({tensor.layout}, {tensor.device})"
        )
    if isinstance(tensor, FakeTensor):
        raise ValueError(f"{name} is a fake tensor, which has no memory to flip bits in")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"bits are flipped in CPU and CUDA memory, and {name} is on {tensor.device}"
        )
    if tensor.data_ptr() % tensor.element_size() != 0:
        raise ValueError(
            f"{name} must begin at a multiple of its {tensor.element_size()} bytes a word, got the "
            f"address {tensor.data_ptr():#x}"
        )
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous, got shape {tuple(tensor.shape)} with strides "
            f"{tuple(tensor.stride())}"
        )
