"""CUDA streams: which memory kernels work on, where native code queues its work, the order of work
on two streams, and results that the host reads later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from proact.errors import ProactError


def is_on_gpu(tensor: Tensor) -> bool:
    """Whether CUDA kernels work on the memory of ``tensor``.

    Tests replace this function to run the source of the kernels on host memory.
    """
    return tensor.is_cuda


def queue_of(device: torch.device) -> tuple[int, int]:
    """The index of a device and the address of torch's current stream on it, for native code.

    Both are 0 for the CPU, on which tests run the kernels.
    """
    if device.type != "cuda":
        return 0, 0
    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU torch's current one inside a block; does nothing for the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has done its work; does nothing for the CPU, whatever GPUs there are."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_capturing() -> bool:
    """Whether work on the current stream of torch's current GPU is recorded into a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class HostCopy:
    """A copy of GPU memory in host memory. The host waits for the GPU only when it reads it.

    A copy of CPU memory is made at once.

    Args:
        memory: what is copied.

    Attributes:
        has_begun: whether `begin` has returned. Before that, there is nothing to read.
    """

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory
        # Pinned memory, because the host waits for copies into other memory.
        self._copy = torch.empty(
            memory.shape, dtype=memory.dtype, device="cpu", pin_memory=memory.is_cuda
        )
        self._event: torch.cuda.Event | None = None
        self.has_begun = False

    def begin(self) -> None:
        """Queues the copy after all work that the current stream has so far."""
        self._copy.copy_(self._memory, non_blocking=True)
        if self._memory.is_cuda:
            self._event = torch.cuda.current_stream(self._memory.device).record_event()
        del self._memory  # the copy keeps no memory of the GPU
        self.has_begun = True  # last, so that an interruption leaves nothing to be read

    @property
    def is_complete(self) -> bool:
        """Whether `read` would return without waiting."""
        return self.has_begun and (self._event is None or self._event.query())

    def read(self) -> Tensor:
        """The copy; waits for the work before it, and for no work that was queued later."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy


class FlipStream:
    """The stream on which memory of a device was changed: torch's current one at construction.

    Undoing the change is only safe on this stream, after all work that was queued on it: on another
    stream the GPU could restore the memory before it is changed, or while a forward pass still
    reads it. On a CPU there are no streams, and this class does nothing.

    Raises:
        ProactError: the stream is recorded into a CUDA graph, so that the change is not made now.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and is_capturing():
            raise ProactError(
                f"memory of {device} cannot be faulted while a CUDA graph is captured, because the "
                "GPU would do it at each replay: capture the graph first, and replay it while "
                "faults are injected"
            )
        self._device = device
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def current(self) -> AbstractContextManager[object]:
        """Makes the stream torch's current one inside a block, after the work it has so far."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Makes the stream torch's current one inside the block.

        Work in the block runs after all work that was queued on the stream and on the caller's
        current stream, and before all work that the caller queues on either afterwards. The host
        does not wait.
        """
        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream(self._device)
        if current == self._stream:
            yield
            return
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)


class StreamMarks:
    """Work that the current streams of some GPUs were given, for other streams to wait for.

    On a CPU there are no streams, and this class does nothing.
    """

    def __init__(self) -> None:
        #: By stream, the last mark, which covers those before.
        self._marks: dict[torch.cuda.Stream, torch.cuda.Event] = {}

    def add(self, devices: Iterable[torch.device]) -> None:
        """Marks the work that the current stream of each device has been given so far."""
        for device in devices:
            if device.type == "cuda":
                stream = torch.cuda.current_stream(device)
                self._marks[stream] = stream.record_event()

    def wait(self) -> None:
        """Lets later work on the current streams begin after all marked work; the host goes on."""
        for stream, event in self._marks.items():
            torch.cuda.current_stream(stream.device).wait_event(event)

    def clear(self) -> None:
        self._marks.clear()
