"""Flips in GPU memory, with the interface of the native FaultPlan and FlipLog.

The host does not wait for the GPU until the flips are listed. Flips are queued on the stream that
is torch's current one at the time. The log remembers that stream: it is read and restored in its
order, even if another stream is current by then.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact import _native
from proact.errors import ProactError
from proact.ops import _device_memory
from proact.ops._device_memory import UploadedBytes
from proact.ops.cuda_stream import FlipStream, current_device, queue_of

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_Columns = tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint64]]
#: A plan keeps the tables of this many rates in GPU memory.
_MOST_RATES = 8


Moved = list[tuple[int, int, int]]


class _QueuedFlips(Protocol):
    """The flips of one call, whose memory lies on the GPU."""

    stream: FlipStream
    hit: list[int]  #: the tensors with flips

    def __len__(self) -> int: ...
    def restore(self, moved: Moved) -> None: ...
    def columns(self) -> list[_Columns]: ...


class DeviceFlipLog:
    """The flips of one or more calls, each with the stream on which it was queued."""

    def __init__(self) -> None:
        self._calls: list[_QueuedFlips] = []
        self._moved: Moved = []

    def add(self, call: _QueuedFlips) -> None:
        self._calls.append(call)

    def __len__(self) -> int:
        return sum(map(len, self._calls))

    def tensors(self) -> list[int]:
        return sorted({number for call in self._calls for number in call.hit})

    def restore(self, threads: int = 1) -> None:
        for call in reversed(self._calls):
            with call.stream.ordered():
                call.restore(self._moved)

    def relocate(self, moved: Moved) -> None:
        """Notes where memory is now, as (before, bytes, now); now is 0 where it is gone."""
        self._moved = moved

    def columns(self) -> _Columns:
        parts: list[_Columns] = []
        for call in self._calls:
            with call.stream.ordered():
                parts.extend(call.columns())
        if not parts:
            empty = np.empty(0, np.uint64)
            return empty.astype(np.uint32), empty, empty.astype(np.uint8), empty
        tensor, element, bit, before = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return tensor, element, bit, before


class DeviceFaultPlan:
    """Tensors on one GPU, in which one kernel makes all flips of a call."""

    def __init__(self, device: torch.device) -> None:
        module = _native.module
        if module is None or not module.cuda:
            raise ProactError(
                f"flips on {device} need a build of proact with CUDA (nvcc on the path and "
                "PROACT_CUDA=auto or on): reinstall it, or move the tensors to the CPU"
            )
        self.module: Any = module
        self.native: Any = module.DevicePlan()
        #: The same tensors for draws on the host, which reads no memory.
        self._draws: Any = module.FaultPlan()
        self.device = device
        self._exact_words = True
        self.word_bytes: list[int] = []
        self._described = UploadedBytes(self.native.described, device)
        self._rates: dict[float, _Rate] = {}

    def add(
        self,
        address: int,
        words: int,
        word_bytes: int,
        stream: int,
        mask: int,
        form: tuple[str | int, ...] = (),
    ) -> None:
        self.native.add(address, words, word_bytes, stream, mask, form)
        self._draws.add(0, words, 1, stream, mask, ("unread", mask.bit_length()))
        self.word_bytes.append(word_bytes)
        self._described = UploadedBytes(self.native.described, self.device)
        self._rates.clear()
        if form and form[0] == "fixed_point":
            self._exact_words &= int(form[1]) <= (24 if word_bytes == 4 else 53)

    def exposed_bits(self) -> int:
        bits: int = self.native.exposed_bits()
        return bits

    def replay_undoes(self) -> bool:
        return self._exact_words

    def new_log(self) -> DeviceFlipLog:
        return DeviceFlipLog()

    def flip_into(
        self,
        log: DeviceFlipLog,
        ber: float,
        seed: int,
        trial: int,
        threads: int = 1,
        isa: str = "",
    ) -> None:
        if ber != 0.0:
            call = _DrawnFlips(self, ber, (seed, trial), is_logged=True)
            log.add(call)
            call.flip()

    def flip_unlogged(self, ber: float, seed: int, trial: int, threads: int = 1) -> int:
        if ber == 0.0:
            return 0
        call = _DrawnFlips(self, ber, (seed, trial), is_logged=False)
        call.flip()
        return len(call)

    def flip_exactly_into(self, log: DeviceFlipLog, flips: int, seed: int, trial: int) -> None:
        drawn = self.module.FlipLog()
        self._draws.flip_exactly_into(drawn, flips, seed, trial)
        tensor, element, bit, _ = drawn.columns()
        # Places are ordered by tensor and element; of one word, in drawing order.
        order = np.lexsort((element, tensor))
        self.flip_places_into(log, tensor[order], element[order], bit[order])

    def flip_places_into(
        self,
        log: DeviceFlipLog,
        tensor: NDArray[np.uint32],
        element: NDArray[np.uint64],
        bit: NDArray[np.uint8],
    ) -> None:
        self.native.check_places(tensor, element, bit)
        if len(bit):
            call = _PlacedFlips(self, tensor, element, bit)
            log.add(call)
            call.flip()

    def tensors_address(self) -> int:
        """The address of the tensors' descriptions, for work on the current stream."""
        return self._described.address()

    def tensors_after(self, moved: Moved) -> Tensor:
        """The tensors' descriptions with the memory where it is now, to keep until the launch."""
        if moved:
            return _device_memory.uploaded(self.native.described_after(moved), self.device)
        return self._described.copy()

    def rate(self, ber: float) -> _Rate:
        rate = self._rates.pop(ber, None)
        if rate is None:
            native = self.native.rate(ber)
            rate = _Rate(native, UploadedBytes(native.tables, self.device))
        self._rates[ber] = rate  # the one that was used last is last
        if len(self._rates) > _MOST_RATES:
            del self._rates[next(iter(self._rates))]
        return rate


class _Rate(NamedTuple):
    """The laws of a plan's tensors at one bit error rate, and their copies on the GPU."""

    native: Any
    tables: UploadedBytes


class _DrawnFlips:
    """The flips of one trial at a bit error rate."""

    def __init__(
        self, plan: DeviceFaultPlan, ber: float, pattern: tuple[int, int], is_logged: bool
    ) -> None:
        self._plan, self._rate, self._is_logged = plan, plan.rate(ber), is_logged
        self._pattern = pattern
        self._flips: int | None = None
        self.stream = FlipStream(plan.device)
        native = self._rate.native
        #: Drawn on the host too, which need not wait for the GPU to know it.
        self.hit: list[int] = plan.native.hit(native, *pattern)
        if not self.hit:
            return
        self._memory = _device_memory.allocated(native.bytes(is_logged), plan.device)
        self._memory[: native.bytes_to_clear()].zero_()
        # Uploaded before the log lists these flips, so that undoing needs no memory of the GPU.
        self._places(plan.tensors_address())

    def flip(self) -> None:
        if self.hit:
            places, queue = self._places(self._plan.tensors_address()), queue_of(self._plan.device)
            with current_device(self._plan.device):
                self._rate.native.flip(*self._pattern, *places, self._is_logged, *queue)

    def restore(self, moved: Moved) -> None:
        # The current stream is the one that allocated the memory (`FlipStream.ordered`): the
        # allocator does not reuse the memory before the stream has finished with it.
        if self.hit:
            tensors = self._plan.tensors_after(moved)
            places, queue = self._places(tensors.data_ptr()), queue_of(self._plan.device)
            with current_device(self._plan.device):
                self._rate.native.restore(*places, *queue)

    def _places(self, tensors: int) -> tuple[int, int, int]:
        """The addresses of the tensors' descriptions, of tables and of the trial's memory."""
        return tensors, self._rate.tables.address(), self._memory.data_ptr()

    def __len__(self) -> int:
        # The host draws the number again, so that it does not wait for the GPU.
        if self._flips is None:
            self._flips = int(self._plan.native.flips(self._rate.native, *self._pattern))
        return self._flips

    def columns(self) -> list[_Columns]:
        if not self.hit:
            return []
        host = self._memory.cpu()
        parts = []
        for index, place in enumerate(self._rate.native.places()):
            blocks, slots, counts_at, before_at, element_at, bit_at = place
            word_bytes = self._plan.word_bytes[index]

            def column(
                begin: int, n: int, dtype: torch.dtype, rows: int = blocks
            ) -> NDArray[np.generic]:
                size = rows * n * dtype.itemsize
                values = host[begin : begin + size].clone().view(dtype)
                array: NDArray[np.generic] = values.view(rows, n).numpy()
                return array

            counts = column(counts_at, 1, torch.int32)
            used = np.arange(slots) < counts
            element = column(element_at, slots, torch.int32).view(np.uint32)[used]
            before = column(before_at, slots, _WORDS[word_bytes]).view(f"u{word_bytes}")[used]
            bit = column(bit_at, slots, torch.uint8)[used]
            parts.append(
                (
                    np.full(len(bit), index, np.uint32),
                    element.astype(np.uint64),
                    bit.astype(np.uint8),
                    before.astype(np.uint64),
                )
            )
        return parts


class _PlacedFlips:
    """Flips at given places, ordered by tensor and element: columns of one length above 0."""

    def __init__(
        self,
        plan: DeviceFaultPlan,
        tensor: NDArray[np.uint32],
        element: NDArray[np.uint64],
        bit: NDArray[np.uint8],
    ) -> None:
        self._plan, self._given = plan, (tensor, element, bit)
        self.hit: list[int] = np.unique(tensor).tolist()
        self.stream = FlipStream(plan.device)
        is_first = (np.diff(element, prepend=element[:1]) != 0) | (
            np.diff(tensor, prepend=tensor[:1]) != 0
        )
        is_first[0] = True
        first = np.append(np.flatnonzero(is_first), len(bit)).astype(np.uint32)
        self._words = len(first) - 1
        # As DevicePlaces in csrc/cuda/flips.hpp: whether the flips were made, and the old words.
        unset = np.zeros(1 + len(bit), np.uint64)
        columns = (
            unset,
            first,
            element.astype(np.uint32),
            tensor.astype(np.uint32),
            bit.astype(np.uint8),
        )
        self._memory = _device_memory.uploaded(
            b"".join(column.tobytes() for column in columns), plan.device
        )
        plan.tensors_address()  # uploaded now, as in `_DrawnFlips`

    def __len__(self) -> int:
        return len(self._given[2])

    def flip(self) -> None:
        self._run(self._plan.module.device_flip_places, self._plan.tensors_after([]))

    def restore(self, moved: Moved) -> None:
        self._run(self._plan.module.device_restore_places, self._plan.tensors_after(moved))

    def _run(self, native: Any, tensors: Tensor) -> None:
        device = self._plan.device
        with current_device(device):
            places = tensors.data_ptr(), self._memory.data_ptr()
            native(self._words, len(self), *places, *queue_of(device))

    def columns(self) -> list[_Columns]:
        before = self._memory[8 : 8 + 8 * len(self)].cpu().view(torch.int64).numpy()
        tensor, element, bit = self._given
        return [(tensor, element.astype(np.uint64), bit, before.view(np.uint64))]
