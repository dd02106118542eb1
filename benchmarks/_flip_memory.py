"""How much memory inject + restore takes at its peak. Run as a program, it measures one case.

A fresh process for each: memory that an earlier case gave back would hide what the next one takes.
Python's own tools do not see native memory, so the kernel's high-water mark is read (Linux).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from proact import ProactError
from proact.ops.plan import FlipPlan

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class PeakMemory:
    model_bytes: int
    flips: int
    threads: int
    extra_bytes: int  #: peak during inject + restore, over what the process held before

    @property
    def bytes_per_flip(self) -> float:
        return self.extra_bytes / self.flips


def measure(quick: bool, threads: int) -> list[PeakMemory]:
    """A case, one with four times the flips, and one with these flips in a model four times as
    large, which several ``threads`` repeat unless ``quick``.

    Nothing where the kernel does not tell.
    """
    if not _STATUS.exists():
        return []
    words, ber = (1 << 22 if quick else 1 << 24), 0.01
    cases = [(words, ber / 4, 1), (words, ber, 1), (4 * words, ber / 4, 1)]
    if threads > 1 and not quick:
        cases.append((4 * words, ber / 4, threads))
    with ThreadPoolExecutor() as together:  # a high-water mark belongs to its process alone
        return list(together.map(lambda case: _in_a_fresh_process(*case), cases))


def _in_a_fresh_process(words: int, ber: float, threads: int) -> PeakMemory:
    done = subprocess.run(
        [sys.executable, __file__, str(words), repr(ber), str(threads)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ProactError(f"the memory measurement failed: {done.stderr.strip()[-300:]}")
    return PeakMemory(**json.loads(done.stdout))


def _measure_here(words: int, ber: float, threads: int) -> PeakMemory:
    model = torch.full((words,), 0.5)  # written, hence resident
    plan = FlipPlan()
    plan.add(model, 1, (1 << 32) - 1, None)
    plan.flip(1e-6, 0, 0, threads).restore(threads)  # whatever a first call allocates once
    _forget_the_peak()
    before = _peak_bytes()
    log = plan.flip(ber, 0, 1, threads)
    log.restore(threads)
    return PeakMemory(4 * words, len(log), threads, _peak_bytes() - before)


def _forget_the_peak() -> None:
    """Sets the high-water mark back to what is resident now (proc(5), clear_refs)."""
    # Some containers forbid it: the peak of the imports then hides a few megabytes.
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def _peak_bytes() -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise ProactError(f"{_STATUS} has no VmHWM")


if __name__ == "__main__":
    print(json.dumps(asdict(_measure_here(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))))
