"""An allocator setting that large activations profit from."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Lets this process keep memory that it frees, instead of giving it back to the system.

    glibc maps each large block anew and unmaps it when it is freed, so that every large activation
    of every forward pass pays for page faults. The setting holds for the whole process and cannot
    be taken back; campaigns make it in their worker processes, never in yours.

    Returns:
        Whether there was such a setting; other C libraries have none.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # glibc refuses more than half its largest heap for mmap; then all of it is what it takes.
    is_set = bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and is_set
