"""Who does the work: this process, processes of this machine, or any executor.

A crew takes units and gives futures. What goes wrong inside a unit comes back in its result; what
kills a worker is the future's exception, and costs the unit that it was working on.
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

import cloudpickle
import torch

from proact.campaign import workers as worker_functions
from proact.campaign.jobs import Job, UnitResult, WorkUnit
from proact.errors import ProactError


class NotStartedError(Exception):
    """The worker died of another unit before it started this one."""


#: Less work than this is done in this process: starting others takes seconds.
WORTH_PROCESSES_SECONDS = 20.0


class WorkerPool(ABC):
    """Runs units of one job, until it is closed."""

    #: How many units it takes at a time.
    queue_depth: int = 1
    #: How many of them it works on at once.
    workers: int = 1

    @abstractmethod
    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        """Takes a unit on."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of what the crew holds; units at work are given up."""


class InProcess(WorkerPool):
    """Works on a unit when it is handed over."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        future: Future[UnitResult] = Future()
        future.set_result(self._job.run(unit))
        return future

    def close(self) -> None:
        self._job.close()


class LocalProcesses(WorkerPool):
    """Processes of this machine, which share its threads out.

    Each has a pool of its own: a pool whose process dies is of no more use, and so only the unit
    that killed it, or that it was working on, is lost.

    Args:
        job: goes to each process once, through a file.
        processes: how many, 1 or more.
        threads: of each.
    """

    def __init__(self, job: Job, processes: int, threads: int) -> None:
        pickled = _pickled(job.for_workers(processes))
        self._folder = tempfile.TemporaryDirectory(prefix="proact-")
        self._file = Path(self._folder.name) / "job"
        self._file.write_bytes(pickled)
        self._threads = threads
        self._pools = [self._pool() for _ in range(processes)]
        #: What each has not done yet, in the order in which it will.
        self._waiting: list[list[Future[UnitResult]]] = [[] for _ in range(processes)]
        self.workers = processes
        # One more for each, so that nobody waits for the coordinator.
        self.queue_depth = 2 * processes

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        position = min(range(len(self._pools)), key=lambda p: len(self._waiting[p]))
        try:
            future = self._pools[position].submit(worker_functions.run_here, unit)
        except RuntimeError:  # it is broken
            self._pools[position].shutdown(wait=False, cancel_futures=True)
            self._pools[position], self._waiting[position] = self._pool(), []
            future = self._pools[position].submit(worker_functions.run_here, unit)
        result: Future[UnitResult] = Future()
        waiting = self._waiting[position]
        waiting.append(result)

        def finish(future: Future[UnitResult]) -> None:
            error = None if future.cancelled() else future.exception()
            if isinstance(error, BrokenExecutor):
                # The process works one unit at a time: those behind the first were not begun.
                if waiting[0] is not result:
                    error = NotStartedError()
            else:
                waiting.remove(result)
            # Whoever waited may have given up in the meantime.
            if future.cancelled():
                _called_off(result)
            elif not result.set_running_or_notify_cancel():
                return
            elif error is not None:
                result.set_exception(error)
            else:
                result.set_result(future.result())

        future.add_done_callback(finish)
        return result

    def processes(self) -> list[int]:
        """The numbers of the processes, which have read the job."""
        return [pool.submit(worker_functions.ready).result() for pool in self._pools]

    def close(self) -> None:
        for pool in self._pools:
            at_work = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in at_work:
                process.terminate()
            for process in at_work:
                process.join()
        self._folder.cleanup()

    def _pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=worker_functions.start_local,
            initargs=(self._file, self._threads),
        )
        with _main_module_left_out(), _ctrl_c_held_back():
            pool.submit(worker_functions.ready)
        return pool


class ExecutorPool(WorkerPool):
    """Somebody's executor: a pool, Dask's `Client.get_executor()`, or another's.

    Args:
        job: is sent to each worker once (to each thread, where threads share a process).
        executor: stays open.
        hands: how many units it can work on at once; what it says of itself by default.

    Raises:
        ProactError: an executor that takes no work.
    """

    def __init__(self, job: Job, executor: Executor, workers: int | None = None) -> None:
        self._executor = executor
        self.workers = workers or _workers_of(executor)
        self._job: Any = _pickled(job.for_workers(self.workers))
        self._digest = hashlib.sha256(self._job).hexdigest()
        client = getattr(executor, "_client", None)
        if client is not None and hasattr(client, "scatter"):
            # Dask hands results from worker to worker, and makes them again when their worker dies.
            # Data that was scattered is lost then, and what waits for it waits for ever.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                self._job = client.submit(worker_functions.itself, self._job, pure=False)
        # Processes of a pool would take all cores each; threads share this process's already, and
        # others have a machine of their own, or somebody who knows it.
        is_pool = isinstance(executor, ProcessPoolExecutor)
        self._threads = threads_each(self.workers) if is_pool else None
        self.queue_depth = 2 * self.workers

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        result: Future[UnitResult] = Future()
        try:
            self._send(unit, None, result)
        except Exception as error:
            raise ProactError(f"the executor takes no more work: {error}") from error
        return result

    def close(self) -> None:
        """The executor is its owner's."""

    def _send(self, unit: WorkUnit, job: Any, result: Future[UnitResult]) -> None:
        arguments = (self._digest, job, unit, self._threads)
        future = self._executor.submit(worker_functions.run_elsewhere, *arguments)

        def finish(future: Future[UnitResult | worker_functions.Missing]) -> None:
            if result.cancelled():
                return
            if future.cancelled():
                _called_off(result)
                return
            error = future.exception()
            if error is None and isinstance(future.result(), worker_functions.Missing):
                try:
                    self._send(unit, self._job, result)
                    return
                except Exception as refused:
                    error = refused
            # Whoever waited may have given up in the meantime.
            if result.set_running_or_notify_cancel():
                if error is None:
                    result.set_result(cast("UnitResult", future.result()))
                else:
                    result.set_exception(error)

        future.add_done_callback(finish)


def checked_executor(executor: Executor | int | None) -> Executor | int | None:
    """``executor`` where it takes work; an error that says what is wrong otherwise."""
    if executor is None:
        return None
    if isinstance(executor, int) and not isinstance(executor, bool):
        if executor < 1:
            raise ValueError(f"executor is a number of processes, 1 or more, got {executor}")
        return executor
    if not isinstance(executor, Executor):
        raise TypeError(
            "executor is a concurrent.futures.Executor, a number of processes or None, got "
            f"{type(executor).__name__}"
        )
    try:
        executor.submit(os.getpid).result()
    except Exception as error:
        raise ProactError(f"the executor takes no work: {error}") from error
    return executor


def worker_pool(job: Job, executor: Executor | int | None) -> WorkerPool:
    """The crew that a checked executor stands for; None: a process for each core."""
    if executor == 1:
        return InProcess(job)
    job.close()  # what this process has made of the job is not sent
    if isinstance(executor, Executor):
        return ExecutorPool(job, executor)
    if executor is not None:
        return LocalProcesses(job, executor, threads_each(executor))
    try:
        return LocalProcesses(job, cores(), threads_each(cores()))
    except ProactError:
        return InProcess(job)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(processes: int) -> int:
    """The threads of each of so many local processes."""
    return max(min(cores(), torch.get_num_threads()) // processes, 1)


def _workers_of(executor: Executor) -> int:
    client = getattr(executor, "_client", None)
    if client is not None and hasattr(client, "nthreads"):
        threads: list[int] = list(client.nthreads().values())
        return max(sum(threads), 1)
    hands: object = getattr(executor, "_max_workers", 1)
    return hands if isinstance(hands, int) else 1


def _pickled(job: Job) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(job)
    except Exception as error:  # whatever a network's parts raise
        raise ProactError(
            f"the networks cannot be sent to other workers ({error}): executor=1 runs them here"
        ) from error
    return pickled


def _called_off(result: Future[UnitResult]) -> None:
    """Cancels a future in the way that those who wait for it notice."""
    if result.cancel():
        result.set_running_or_notify_cancel()


@contextmanager
def _main_module_left_out() -> Iterator[None]:
    """Starts processes that do not run the user's script again, as multiprocessing has them do:
    scripts without ``if __name__ == "__main__"`` would start over. What it defines travels with the
    job, by value."""
    main = sys.modules["__main__"]
    hidden = ("__file__", "__spec__")
    kept = {name: vars(main).pop(name) for name in hidden if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Starts processes that do not hear Ctrl-C: one that still imports would die of it, aloud. Here
    it comes a moment later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
