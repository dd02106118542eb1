"""The resident memory of this process, in bytes, as Linux counts it (proc(5)).

Python's own tools do not count memory of native code.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from proact import ProactError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def is_measurable() -> bool:
    """Whether the kernel reports the memory of a process."""
    return _STATUS.exists()


def reset_peak() -> None:
    """Sets the peak to the resident memory of now."""
    # Some containers forbid it: the peak of the imports then hides a few megabytes.
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """The largest resident memory since the last reset."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """The resident memory now."""
    return _status("VmRSS")


def _status(field: str) -> int:
    if not is_measurable():
        raise ProactError(f"peak memory is measured on Linux alone: there is no {_STATUS}")
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise ProactError(f"{_STATUS} has no {field}")
