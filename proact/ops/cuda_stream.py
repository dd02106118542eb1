"""CUDA streams: the handle that native code takes, and the order of work on two streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream_handle(device: torch.device) -> int:
    """The address of torch's current stream on the device."""
    handle: int = torch.cuda.current_stream(device).cuda_stream
    return handle


class FlipStream:
    """The stream on which memory of a device was changed: torch's current one at construction.

    Undoing the change is only safe on this stream, after all work that was queued on it: on another
    stream the GPU could restore the memory before it is changed, or while a forward pass still
    reads it. On a CPU there are no streams, and this class does nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

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
