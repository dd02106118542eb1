"""Worker pools: this process, local processes, or any `concurrent.futures.Executor`."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from typing import Any, cast

import torch

from proact.campaign import workers as worker_functions
from proact.campaign.dask_job import DaskJob
from proact.campaign.jobs import Job, UnitResult, WorkUnit
from proact.campaign.local_processes import LocalProcesses
from proact.campaign.worker_pool import LostWorkerError, WorkerPool
from proact.errors import ProactError
from proact.limits import cores, most_workers
from proact.text import short_repr

#: Errors of executors other than Python's that say that a worker died, by the names of their types.
_LOST = ("KilledWorker", "CommClosedError", "WorkerCrashedError")
_LOST_KINDS = (LostWorkerError, BrokenExecutor, ConnectionError, EOFError, TimeoutError)


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error says that a worker died or was not reached.

    Any other error of a future is an error of the work, and repeats if the work is repeated.
    """
    is_named = any(kind.__name__ in _LOST for kind in type(error).__mro__)
    return is_named or isinstance(error, _LOST_KINDS)


#: Shorter work runs in this process, because starting worker processes takes seconds.
WORTH_PROCESSES_SECONDS = 20.0


class InProcess(WorkerPool):
    """Runs each unit in this process when it is submitted."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        future: Future[UnitResult] = Future()
        future.set_result(self._job.run(unit))
        return future

    def close(self) -> None:
        self._job.close()


class ExecutorPool(WorkerPool):
    """An executor of the caller, such as a process pool or Dask's `Client.get_executor()`.

    Args:
        job: is sent to each worker once (to each thread if threads share a process).
        executor: runs the units, and stays open.
        workers: number of units that the executor runs at the same time; by default the number
            that the executor reports, or 1.

    Raises:
        ProactError: the job cannot be pickled, or workers die of it.
    """

    def __init__(self, job: Job, executor: Executor, workers: int | None = None) -> None:
        self._executor = executor
        self.workers = workers or _workers_of(executor)
        pickled_job = job.for_workers(self.workers)
        self._digest = hashlib.sha256(pickled_job).hexdigest()
        client = getattr(executor, "_client", None)
        self._dask = DaskJob(client, pickled_job) if hasattr(client, "scatter") else None
        self._pickled_job = pickled_job
        # Each process of a pool would use all cores. Threads share this process's setting, and
        # other executors run on machines that are configured elsewhere.
        is_pool = isinstance(executor, ProcessPoolExecutor)
        self._threads = threads_each(self.workers) if is_pool else None
        self.queue_depth = 2 * self.workers
        self._start()

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        self.check()
        result: Future[UnitResult] = Future()
        try:
            self._send(unit, None, result)
        except Exception as error:
            raise ProactError(f"the executor does not accept more work: {error}") from error
        return result

    def check(self) -> None:
        if self._dask is not None:
            self._dask.check()

    def close(self) -> None:
        """Do nothing: the caller owns the executor."""

    def _start(self) -> None:
        """Let one worker read the job: a worker that dies of it is not lost by a trial."""
        (future,) = self.wait([self.submit(WorkUnit(0, 0, 0, 0))])
        error = None if future.cancelled() else future.exception()
        if error is not None and is_lost_worker(error):
            raise ProactError(
                f"workers die before the first trial ({error}): give them more memory, or check "
                "that they run the same versions of Python and torch"
            ) from error

    def _job(self) -> Any:
        return self._pickled_job if self._dask is None else self._dask.job

    def _send(self, unit: WorkUnit, job: Any, result: Future[UnitResult]) -> None:
        arguments = (self._digest, job, unit, self._threads)
        future = self._executor.submit(worker_functions.run_elsewhere, *arguments)

        def finish(future: Future[UnitResult | worker_functions.Missing]) -> None:
            if result.cancelled():
                return
            if future.cancelled():
                _cancel(result)
                return
            error = future.exception()
            try:
                is_missing = error is None and isinstance(future.result(), worker_functions.Missing)
                if is_missing or (self._dask is not None and self._dask.was_lost(error)):
                    self._send(unit, self._job(), result)
                    return
            except Exception as refused:
                error = refused
            # The coordinator may have cancelled the result in the meantime.
            if result.set_running_or_notify_cancel():
                if error is None:
                    result.set_result(cast("UnitResult", future.result()))
                else:
                    result.set_exception(error)

        future.add_done_callback(finish)


def checked_executor(executor: Executor | int | None) -> Executor | int | None:
    """Check that ``executor`` accepts work, and return it.

    Raises:
        ValueError, TypeError: not an executor, a number of processes of at least 1, or None.
        ProactError: the executor failed to run a function.
    """
    if executor is None:
        return None
    if isinstance(executor, int) and not isinstance(executor, bool):
        if executor < 1:
            raise ValueError(f"executor: expected at least 1 process, got {executor}")
        if executor > most_workers():
            raise ValueError(
                f"executor: expected at most {most_workers()} processes on this machine, which has "
                f"{cores()} cores, got {short_repr(executor)}"
            )
        return executor
    if not isinstance(executor, Executor):
        raise TypeError(
            "executor: expected a concurrent.futures.Executor, a number of processes or None, got "
            f"{type(executor).__name__}"
        )
    try:
        executor.submit(os.getpid).result()
    except Exception as error:
        raise ProactError(f"the executor does not accept work: {error}") from error
    return executor


def worker_pool_for(job: Job, executor: Executor | int | None) -> WorkerPool:
    """Make the worker pool for a checked executor; None makes one process per core."""
    if executor == 1:
        return InProcess(job)
    job.close()  # do not send the trial runners of this process
    if isinstance(executor, Executor):
        return ExecutorPool(job, executor)
    if executor is not None:
        return LocalProcesses(job, executor, threads_each(executor))
    try:
        return LocalProcesses(job, cores(), threads_each(cores()))
    except ProactError:
        return InProcess(job)


def threads_each(processes: int) -> int:
    """The number of torch threads of each of ``processes`` local processes, at least 1."""
    return max(min(cores(), torch.get_num_threads()) // processes, 1)


def _workers_of(executor: Executor) -> int:
    client = getattr(executor, "_client", None)
    if client is not None and hasattr(client, "nthreads"):
        threads: list[int] = list(client.nthreads().values())
        return max(sum(threads), 1)
    workers: object = getattr(executor, "_max_workers", 1)
    return workers if isinstance(workers, int) else 1


def _cancel(result: Future[UnitResult]) -> None:
    """Cancel a future and notify the threads that wait for it."""
    if result.cancel():
        result.set_running_or_notify_cancel()
