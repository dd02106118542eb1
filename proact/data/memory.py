"""Refuse images that do not fit into the memory of this machine."""

from __future__ import annotations

import math
import os

from proact.errors import ProactError

_BYTES_OF_FLOAT32 = 4


def check_memory(what: str, *shape: int) -> None:
    """Check that images fit into memory before they are made.

    Without this check, the system would end the process while it fills the memory.

    Args:
        what: the subject of the message, such as ``"the images of digits"``.
        shape: the shape of the images (n, channels, height, width), float32.

    Raises:
        ProactError: they need more than the memory of this machine.
    """
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = math.prod(shape) * _BYTES_OF_FLOAT32
    if needed > available:
        raise ProactError(
            f"{what} at {shape[-2]}x{shape[-1]} pixels need {needed / 2**30:,.0f} GiB, and this "
            f"machine has {available / 2**30:,.0f} GiB: use a smaller image_size"
        )
