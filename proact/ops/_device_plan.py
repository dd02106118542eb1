"""Flips in GPU memory, with the interface of the native FaultPlan and FlipLog.

The host does not wait for the GPU until the number of flips, or the flips themselves, are read.
Flips are queued on the stream that is torch's current one at the time. The log remembers that
stream: it is read and restored in its order, even if another stream is current by then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact import _native
from proact.errors import ProactError
from proact.ops.cuda_stream import FlipStream, stream_handle

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_Columns = tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint64]]


class DeviceFlipLog:
    """The flips of one or more calls, each with the stream on which it was queued."""

    def __init__(self) -> None:
        self._calls: list[tuple[DeviceFaultPlan, float, Tensor, FlipStream]] = []

    def __len__(self) -> int:
        flips = 0
        for _, _, memory, stream in self._calls:
            with stream.ordered():
                flips += _number_of_flips(memory)
        return flips

    def tensors(self) -> list[int]:
        return list(range(max((plan.tensors for plan, *_ in self._calls), default=0)))

    def restore(self, threads: int = 1) -> None:
        for plan, ber, memory, stream in reversed(self._calls):
            with stream.ordered():
                plan._restore(ber, memory)

    def relocate(self, moved: list[tuple[int, int, int]]) -> None:
        raise ProactError(
            "tensors in GPU memory were moved or freed while faults were injected, so that their "
            "words were not restored"
        )

    def columns(self) -> _Columns:
        parts: list[_Columns] = []
        for plan, ber, memory, stream in self._calls:
            with stream.ordered():
                parts.extend(plan._columns(ber, memory))
        if not parts:
            empty = np.empty(0, np.uint64)
            return empty.astype(np.uint32), empty, empty.astype(np.uint8), empty
        tensor, element, bit, before = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return tensor, element, bit, before


class DeviceFaultPlan:
    """Tensors on one GPU, in which one call makes all flips."""

    def __init__(self, device: torch.device) -> None:
        module = _native.module
        if module is None or not module.cuda:
            raise ProactError(
                f"flips on {device} need a build of proact with CUDA (nvcc on the path and "
                "PROACT_CUDA=auto or on): reinstall it, or move the tensors to the CPU"
            )
        self._plan: Any = module.DevicePlan()
        self._device = device
        self._exact_words = True
        self.tensors = 0

    def add(
        self,
        address: int,
        words: int,
        word_bytes: int,
        stream: int,
        mask: int,
        form: tuple[str | int, ...] = (),
    ) -> None:
        self._plan.add(address, words, word_bytes, stream, mask, form)
        self.tensors += 1
        fixed_word_bits = int(form[1]) if form else 0
        self._exact_words &= fixed_word_bits <= (24 if word_bytes == 4 else 53)

    def exposed_bits(self) -> int:
        bits: int = self._plan.exposed_bits()
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
            memory = self._memory(ber, logged=True)
            log._calls.append((self, ber, memory, FlipStream(self._device)))
            self._flip(ber, seed, trial, memory, logged=True)

    def flip_unlogged(self, ber: float, seed: int, trial: int, threads: int = 1) -> int:
        if ber == 0.0:
            return 0
        memory = self._memory(ber, logged=False)
        self._flip(ber, seed, trial, memory, logged=False)
        return _number_of_flips(memory)

    def flip_exactly_into(self, log: DeviceFlipLog, flips: int, seed: int, trial: int) -> None:
        raise ProactError(
            f"an exact number of flips can only be made in CPU memory: move the tensor from "
            f"{self._device} to the CPU"
        )

    def _memory(self, ber: float, logged: bool) -> Tensor:
        size = self._plan.bytes(ber, logged)
        memory = torch.empty(size, dtype=torch.uint8, device=self._device)
        memory[: self._plan.bytes_to_clear(ber)].zero_()
        return memory

    def _flip(self, ber: float, seed: int, trial: int, memory: Tensor, logged: bool) -> None:
        with torch.cuda.device(self._device):
            self._plan.flip(ber, seed, trial, memory.data_ptr(), logged, *self._where())

    def _restore(self, ber: float, memory: Tensor) -> None:
        # The current stream is the one that allocated the log's memory (`FlipStream.ordered`): the
        # allocator does not reuse the memory before the stream has finished with it.
        with torch.cuda.device(self._device):
            self._plan.restore(ber, memory.data_ptr(), *self._where())

    def _where(self) -> tuple[int, int]:
        return self._device.index, stream_handle(self._device)

    def _columns(self, ber: float, memory: Tensor) -> list[_Columns]:
        host = memory.cpu()
        parts = []
        for index, place in enumerate(self._plan.places(ber)):
            blocks, slots, counts_at, before_at, element_at, bit_at, word_bytes = place

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


def _number_of_flips(memory: Tensor) -> int:
    return int(memory[:8].view(torch.int64).item())
