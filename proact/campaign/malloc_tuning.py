"""An allocator setting that large activations profit from."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
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
    # No blocks of their own (a larger threshold for them would be refused above 32 MiB), and no
    # memory back from the heap's end.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
