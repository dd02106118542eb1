"""An allocator setting that speeds up models with large activations."""

from __future__ import annotations

import ctypes
import sys

# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Make this process keep memory that it frees, instead of returning it to the system.

    glibc maps each large block when it is allocated and unmaps it when it is freed. Every large
    activation of every forward pass then causes page faults. The setting affects the whole process
    and cannot be undone; campaigns apply it in their worker processes only.

    Returns:
        Whether the setting was applied. It exists in glibc only.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Disable mmap for large blocks (glibc refuses mmap thresholds above 32 MiB), and never trim the
    # heap.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
