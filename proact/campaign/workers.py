"""Functions that run in a worker: a local process, or a worker of the caller's executor.

A job is large (models, images) and the same for all units, so each worker receives it once. A local
process reads it from a file. Another worker returns `Missing` for its first unit, and receives the
job when the unit is submitted again.
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

#: Jobs by digest and thread: each thread of a process injects faults into its own models.
_JOBS: dict[tuple[str, int], Job] = {}
_MOST_JOBS = 4
_LOCK = threading.Lock()


class Missing:
    """The result of a unit whose job the worker does not have."""


def itself(job: bytes) -> bytes:
    """Return the job: the Dask task whose result is the job."""
    return job


def run_elsewhere(
    digest: str, job: bytes | None, unit: WorkUnit, threads: int | None
) -> UnitResult | Missing:
    """Run a unit in a worker of any executor.

    Args:
        digest: SHA-256 of the pickled job.
        job: the pickled job, or None if the worker should have it.
        unit: the unit to run.
        threads: number of torch threads; None leaves the setting unchanged.
    """
    key = (digest, threading.get_ident())
    with _LOCK:
        known = _JOBS.get(key)
    if known is None:
        if job is None:
            return Missing()
        known = cloudpickle.loads(job)
        with _LOCK:
            # A worker keeps cached activations of its current job only.
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
    """Initialise a local worker."""
    # A terminal sends Ctrl-C to all of its processes; only the coordinator handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _Local.path = path


def _end_with_parent() -> None:
    """Exit when the coordinator dies: a killed coordinator cannot end its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ready() -> int:
    """Read the job, and return the process identifier."""
    if _Local.job is None:
        with _Local.path.open("rb") as file:
            _Local.job = cloudpickle.load(file)
    return os.getpid()


def run_here(unit: WorkUnit) -> UnitResult:
    """Run a unit in a local worker."""
    ready()
    assert _Local.job is not None
    return _Local.job.run(unit)
