"""Functions that run in a worker: a local process, or a worker of the caller's executor.

A job is large (models, images) and the same for all units, so each worker receives it once. A local
process reads it from memory that it inherits. Another worker returns `Missing` for its first unit,
and receives the job when the unit is submitted again.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from typing import Any

import cloudpickle
import torch

from proact.campaign.jobs import Job, UnitResult, WorkUnit
from proact.campaign.malloc_tuning import keep_freed_memory
from proact.errors import ProactError

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
    if known is None and job is None:
        return Missing()
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    if known is None:
        known = cloudpickle.loads(job)
        with _LOCK:
            # A worker keeps cached activations of its current job only.
            for other in [_JOBS[k] for k in _JOBS if k[1] == key[1]]:
                other.close()
            while len(_JOBS) >= _MOST_JOBS * max(threading.active_count(), 1):
                del _JOBS[next(iter(_JOBS))]
            _JOBS[key] = known
    return _transferable(known.run(unit))


#: The number of the running trial as bytes, while no trial runs.
NO_TRIAL = (-1).to_bytes(8, sys.byteorder, signed=True)


def trial_in(memory: mmap.mmap) -> int | None:
    """Read the number of the running trial, or `SEVERAL_TRIALS`; None between two trials."""
    noted = memory[:]
    return None if noted == NO_TRIAL else int.from_bytes(noted, sys.byteorder, signed=True)


class _Local:
    """The job of this process, and the memory in which it notes the running trial."""

    pickled_job: mmap.mmap
    running_trial: mmap.mmap
    job: Job | None = None


def start_local(job: Any, running_trial: Any, threads: int) -> None:
    """Initialise a local worker.

    Args:
        job: the inherited file of the pickled job.
        running_trial: the inherited file in which the worker notes the running trial.
        threads: number of torch threads.
    """
    # A terminal sends its signals to all of its processes; only the coordinator handles them.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _Local.pickled_job, _Local.running_trial = job.memory, running_trial.memory


def _end_with_parent() -> None:
    """Exit when the coordinator dies: a killed coordinator cannot end its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ready() -> int:
    """Read the job, and return the process identifier."""
    if _Local.job is None:
        _Local.job = cloudpickle.loads(_Local.pickled_job)
    return os.getpid()


def run_here(unit: WorkUnit) -> UnitResult:
    """Run a unit in a local worker."""
    ready()
    assert _Local.job is not None
    try:
        return _transferable(_Local.job.run(unit, _note))
    finally:
        _Local.running_trial[:] = NO_TRIAL


def _note(trial: int) -> None:
    _Local.running_trial[:] = trial.to_bytes(8, sys.byteorder, signed=True)


def _transferable(result: UnitResult) -> UnitResult:
    """Replace an error that another process could not read by one with the same message."""
    if result.error is None:
        return result
    try:
        cloudpickle.loads(cloudpickle.dumps(result.error))
    except Exception:  # an error class of the user may raise anything
        told = "".join(traceback.format_exception(result.error))
        return replace(result, error=ProactError(f"the model or the metric failed:\n{told}"))
    return result
