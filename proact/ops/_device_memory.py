"""Memory on a GPU that kernels read and write."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from proact.ops.cuda_stream import queue_of


def allocated(size: int, device: torch.device) -> Tensor:
    """Memory of ``size`` bytes on a device, for work on the current stream."""
    return torch.empty(size, dtype=torch.uint8, device=device)


def uploaded(contents: bytes, device: torch.device) -> Tensor:
    """A copy of bytes on a device, for work on the current stream."""
    # Without a wait: CUDA has read memory that is not pinned when the call returns.
    return torch.frombuffer(bytearray(contents), dtype=torch.uint8).to(device, non_blocking=True)


class UploadedBytes:
    """Bytes that kernels read on a device.

    Each stream has a copy, which it uploads before its first use: another stream could read a copy
    too early.

    Args:
        contents: returns the bytes.
        device: where the copies lie.
    """

    def __init__(self, contents: Callable[[], bytes], device: torch.device) -> None:
        self._contents, self._device = contents, device
        self._copies: dict[int, Tensor] = {}

    def copy(self) -> Tensor:
        """The copy of the current stream."""
        _, stream = queue_of(self._device)
        if stream not in self._copies:
            self._copies[stream] = uploaded(self._contents(), self._device)
        return self._copies[stream]

    def address(self) -> int:
        """The address of the copy of the current stream."""
        return self.copy().data_ptr()
