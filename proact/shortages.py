"""Tell errors of an exhausted machine from other errors: memory, threads, processes, open files.

Python, torch, NumPy and the native core raise different types for these, some only with a text.
"""

from __future__ import annotations

import errno
import os
import re

#: What is short, by error number.
_NUMBERS = {
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes or threads",
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
}
#: The texts of RuntimeError (torch, threads, C++) and ImportError (shared libraries).
_TEXTS = {
    "memory": re.compile(
        "DefaultCPUAllocator: |out of memory|std::bad_alloc|failed to map segment|"
        "Storage size calculation overflowed|" + re.escape(os.strerror(errno.ENOMEM)),
        re.IGNORECASE,
    ),
    "processes or threads": re.compile(
        "can't (start new|create) thread|" + re.escape(os.strerror(errno.EAGAIN)), re.IGNORECASE
    ),
    "open files": re.compile(re.escape(os.strerror(errno.EMFILE)), re.IGNORECASE),
}


def shortage(error: BaseException | None) -> str | None:
    """Name what the machine is short of, as in ``"memory"``; None if an error has another cause.

    The causes of the error (``raise ... from``, or an error during its handling) count too.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        found = _named(error)
        if found is not None:
            return found
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _named(error: BaseException) -> str | None:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return "memory"
    if isinstance(error, OSError):
        return _NUMBERS.get(error.errno or 0)
    if isinstance(error, (RuntimeError, ImportError)):
        text = str(error)
        return next((what for what, pattern in _TEXTS.items() if pattern.search(text)), None)
    return None
