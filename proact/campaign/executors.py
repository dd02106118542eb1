"""Worker pools: this process, local processes, or any `concurrent.futures.Executor`.

A worker pool runs work units and returns futures. An error inside a unit is part of the unit's
result. The death of a worker is the exception of the future, and only the unit that it was running
is lost.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from proact.campaign import workers as worker_functions
from proact.campaign.jobs import Job, UnitResult, WorkUnit
from proact.campaign.pickling import pickled
from proact.errors import ProactError


class NotStartedError(Exception):
    """The worker died while it ran another unit, before it started this one."""


#: Errors of executors other than Python's that say that a worker died, by the names of their types.
_LOST = ("KilledWorker", "CommClosedError", "WorkerCrashedError")


def is_lost_worker(error: Exception) -> bool:
    """Whether an error says that a worker died or was not reached.

    Any other error of a future is an error of the work, and repeats if the work is repeated.
    """
    is_named = any(kind.__name__ in _LOST for kind in type(error).__mro__)
    return is_named or isinstance(error, (BrokenExecutor, ConnectionError, EOFError, TimeoutError))


#: Shorter work runs in this process, because starting worker processes takes seconds.
WORTH_PROCESSES_SECONDS = 20.0


class WorkerPool(ABC):
    """Runs the units of one job until it is closed."""

    #: The number of units that may be submitted at a time.
    queue_depth: int = 1
    #: The number of units that run at the same time.
    workers: int = 1

    @abstractmethod
    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        """Submit a unit."""

    @abstractmethod
    def close(self) -> None:
        """Free the resources of the pool; units that still run are abandoned."""


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


class LocalProcesses(WorkerPool):
    """Local worker processes.

    Each process has its own `ProcessPoolExecutor`. A pool cannot be used after one of its processes
    died, so separate pools limit the loss to the unit that was running.

    Args:
        job: is sent to each process once, through a file.
        processes: number of processes, at least 1.
        threads: number of torch threads of each process.
    """

    def __init__(self, job: Job, processes: int, threads: int) -> None:
        content = _pickled(job.for_workers(processes))
        self._folder = tempfile.TemporaryDirectory(prefix="proact-")
        self._file = Path(self._folder.name) / "job"
        self._file.write_bytes(content)
        self._threads = threads
        self._pools = [self._pool() for _ in range(processes)]
        #: The unfinished futures of each process, in the order of execution.
        self._waiting: list[list[Future[UnitResult]]] = [[] for _ in range(processes)]
        self.workers = processes
        # One more unit for each process, so that no worker waits for the coordinator.
        self.queue_depth = 2 * processes

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        position = min(range(len(self._pools)), key=lambda p: len(self._waiting[p]))
        try:
            future = self._pools[position].submit(worker_functions.run_here, unit)
        except RuntimeError:  # the pool is broken
            self._pools[position].shutdown(wait=False, cancel_futures=True)
            self._pools[position], self._waiting[position] = self._pool(), []
            future = self._pools[position].submit(worker_functions.run_here, unit)
        result: Future[UnitResult] = Future()
        waiting = self._waiting[position]
        waiting.append(result)

        def finish(future: Future[UnitResult]) -> None:
            error = None if future.cancelled() else future.exception()
            if isinstance(error, BrokenExecutor):
                # A process runs one unit at a time: those after the first had not started.
                if waiting[0] is not result:
                    error = NotStartedError()
            else:
                waiting.remove(result)
            # The coordinator may have cancelled the result in the meantime.
            if future.cancelled():
                _cancel(result)
            elif not result.set_running_or_notify_cancel():
                return
            elif error is not None:
                result.set_exception(error)
            else:
                result.set_result(future.result())

        future.add_done_callback(finish)
        return result

    def processes(self) -> list[int]:
        """The process identifiers of the workers, after all have read the job."""
        return [pool.submit(worker_functions.ready).result() for pool in self._pools]

    def close(self) -> None:
        for pool in self._pools:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
        self._folder.cleanup()

    def _pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=worker_functions.start_local,
            initargs=(self._file, self._threads),
        )
        with _main_module_hidden(), _interrupts_blocked():
            pool.submit(worker_functions.ready)
        return pool


class ExecutorPool(WorkerPool):
    """An executor of the caller, such as a process pool or Dask's `Client.get_executor()`.

    Args:
        job: is sent to each worker once (to each thread if threads share a process).
        executor: runs the units, and stays open.
        workers: number of units that the executor runs at the same time; by default the number
            that the executor reports, or 1.

    Raises:
        ProactError: the job cannot be pickled.
    """

    def __init__(self, job: Job, executor: Executor, workers: int | None = None) -> None:
        self._executor = executor
        self.workers = workers or _workers_of(executor)
        self._job: Any = _pickled(job.for_workers(self.workers))
        self._digest = hashlib.sha256(self._job).hexdigest()
        client = getattr(executor, "_client", None)
        if client is not None and hasattr(client, "scatter"):
            # Send the job as the result of a Dask task: Dask computes it again if its worker dies.
            # Scattered data would be lost, and tasks that depend on it would wait forever.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                self._job = client.submit(worker_functions.itself, self._job, pure=False)
        # Each process of a pool would use all cores. Threads share this process's setting, and
        # other executors run on machines that are configured elsewhere.
        is_pool = isinstance(executor, ProcessPoolExecutor)
        self._threads = threads_each(self.workers) if is_pool else None
        self.queue_depth = 2 * self.workers

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        result: Future[UnitResult] = Future()
        try:
            self._send(unit, None, result)
        except Exception as error:
            raise ProactError(f"the executor does not accept more work: {error}") from error
        return result

    def close(self) -> None:
        """Do nothing: the caller owns the executor."""

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
            if error is None and isinstance(future.result(), worker_functions.Missing):
                try:
                    self._send(unit, self._job, result)
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


def worker_pool(job: Job, executor: Executor | int | None) -> WorkerPool:
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


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _pickled(job: Job) -> bytes:
    try:
        return pickled(job)
    except Exception as error:  # parts of a model may raise anything
        raise ProactError(
            f"the models cannot be sent to workers ({error}): use executor=1 to run in this process"
        ) from error


def _cancel(result: Future[UnitResult]) -> None:
    """Cancel a future and notify the threads that wait for it."""
    if result.cancel():
        result.set_running_or_notify_cancel()


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Hide the main module while processes start.

    multiprocessing would run the user's script again in each process, and a script without
    ``if __name__ == "__main__"`` would start over. The job carries the script's definitions by
    value.
    """
    main = sys.modules["__main__"]
    hidden = ("__file__", "__spec__")
    kept = {name: vars(main).pop(name) for name in hidden if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT while processes start, so that they inherit the blocked signal.

    A process that is interrupted during its imports would print a traceback. This process receives
    a pending interrupt at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
