"""What runs in a worker: a process of this machine, or somebody else's executor.

A job is large (networks, images) and the same for all units, so that it goes to a worker once:
local processes read it from a file, others get it with the first unit that they turn back for want
of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import cloudpickle
import torch

from proact.campaign.jobs import Job, UnitResult, WorkUnit
from proact.campaign.malloc_tuning import keep_freed_memory

#: Jobs by digest and thread: threads of one process each fault networks of their own.
_JOBS: dict[tuple[str, int], Job] = {}
_MOST_JOBS = 4
_LOCK = threading.Lock()


class Missing:
    """A worker's answer to a unit of a job that it does not have."""


def itself(job: bytes) -> bytes:
    """Makes a result of a job."""
    return job


def run_elsewhere(
    digest: str, job: bytes | None, unit: WorkUnit, threads: int | None
) -> UnitResult | Missing:
    """Runs a unit in an executor of any kind. ``job`` is the pickled job, where it has to be
    sent."""
    key = (digest, threading.get_ident())
    with _LOCK:
        known = _JOBS.get(key)
    if known is None:
        if job is None:
            return Missing()
        known = cloudpickle.loads(job)
        with _LOCK:
            # A worker keeps the activations of the job that it works on, and of no other.
            for other in [_JOBS[k] for k in _JOBS if k[1] == key[1]]:
                other.close()
            while len(_JOBS) >= _MOST_JOBS * max(threading.active_count(), 1):
                del _JOBS[next(iter(_JOBS))]
            _JOBS[key] = known
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return known.run(unit)


class _Local:
    """The job of this process."""

    path: Path
    job: Job | None = None


def start_local(path: Path, threads: int) -> None:
    """The first thing that a local worker does."""
    # Ctrl-C goes to all processes of a terminal; the coordinator decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _Local.path = path


def _end_with_parent() -> None:
    """A coordinator that is killed cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ready() -> int:
    """Reads the job; the number of the process."""
    if _Local.job is None:
        with _Local.path.open("rb") as file:
            _Local.job = cloudpickle.load(file)
    return os.getpid()


def run_here(unit: WorkUnit) -> UnitResult:
    """Runs a unit in a local worker."""
    ready()
    assert _Local.job is not None
    return _Local.job.run(unit)
