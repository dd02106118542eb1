"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import cast

from proact.campaign import workers as worker_functions
from proact.campaign.inherited_file import InheritedFile
from proact.campaign.jobs import Job, UnitResult, WorkUnit
from proact.campaign.worker_pool import LostWorkerError, NotStartedError, WorkerPool
from proact.errors import ProactError

#: A process that dies so often before it has read the job is not started again.
_START_ATTEMPTS = 4
#: The wait before the second start in a row, in seconds; it doubles with each further one.
_FIRST_WAIT_SECONDS = 0.5
#: A worker that does not end within this time is killed.
_END_SECONDS = 3.0


class LocalProcesses(WorkerPool):
    """Local worker processes.

    Each process has its own `ProcessPoolExecutor`. A pool cannot be used after one of its processes
    died, so separate pools limit the loss to the unit that was running.

    Args:
        job: is sent to each process once, through memory that it shares with this process.
        processes: number of processes, at least 1.
        threads: number of torch threads of each process.

    Raises:
        ProactError: the job cannot be pickled, or no process can be started.
    """

    def __init__(self, job: Job, processes: int, threads: int) -> None:
        self._threads = threads
        self._processes: list[_Process] = []
        content = job.for_workers(processes)
        try:
            self._job = InheritedFile(content)
        except OSError as error:
            raise ProactError(
                f"the job of {len(content):,} bytes cannot be written for the workers "
                f"({error.strerror}): free space in {tempfile.gettempdir()}, or set TMPDIR"
            ) from None
        try:
            for _ in range(processes):
                self._add()
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:  # type: ignore[override]
        """The number of processes, without those that could not be started."""
        return len(self._processes)

    @property
    def queue_depth(self) -> int:  # type: ignore[override]
        """One more unit for each process, so that no worker waits for the coordinator."""
        return 2 * len(self._processes)

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        while True:
            # A dead process comes first. Its unfinished futures would keep it from being chosen.
            process = min(self._processes, key=lambda each: (not each.is_dead, len(each.waiting)))
            if not process.is_dead:
                try:
                    return process.submit(unit)
                except RuntimeError:  # it died just now
                    pass
            self._processes.remove(process)
            process.close()
            self._add(0 if process.is_ready else process.failed_starts + 1)

    def process_ids(self) -> list[int]:
        """The process identifiers of the workers, after all have read the job."""
        return [process.ready.result() for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.close()
        self._job.close()

    def _add(self, failed_starts: int = 0) -> None:
        """Start a process, after so many that died in a row before they were ready."""
        reason = "it ended before it had read the job, probably for lack of memory"
        if failed_starts < _START_ATTEMPTS:
            if failed_starts:
                time.sleep(_FIRST_WAIT_SECONDS * 2 ** (failed_starts - 1))
            try:
                self._processes.append(_Process(self._job, self._threads, failed_starts))
                return
            except (OSError, RuntimeError) as error:  # too many processes, threads or open files
                reason = str(error)
        if not self._processes:
            raise ProactError(
                f"no worker process can be started ({reason}): free memory or processes, or use "
                "fewer workers; executor=1 (--workers 1) starts none"
            )
        warnings.warn(
            f"a worker process cannot be started ({reason}): the campaign goes on with "
            f"{len(self._processes)}",
            stacklevel=2,
        )


class _Process:
    """One worker process.

    Attributes:
        ready: its result is the process identifier, when the process has read the job.
        waiting: the unfinished futures in the order of execution.
        is_dead: whether a unit found that the process died.
        failed_starts: how many processes before this one died before they were ready.
    """

    def __init__(self, job: InheritedFile, threads: int, failed_starts: int) -> None:
        self.failed_starts = failed_starts
        self.waiting: list[Future[UnitResult]] = []
        self.is_dead = False
        self._running_trial = InheritedFile(worker_functions.NO_TRIAL)
        self._process: BaseProcess | None = None
        self._thread: Thread | None = None
        with _main_module_hidden(), _signals_blocked():
            try:
                self._pool = ProcessPoolExecutor(
                    1,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=worker_functions.start_local,
                    initargs=(job, self._running_trial, threads),
                )
            except BaseException:
                self._running_trial.close()
                raise
            try:
                self.ready: Future[int] = self._pool.submit(worker_functions.ready)
            except BaseException:  # maybe after the start of the process, without a thread for it
                self._process = self._started()
                self.terminate()
                self.close()
                raise
            self._process = self._started()

    @property
    def is_ready(self) -> bool:
        """Whether the process has read the job, even if it died after that."""
        return self.ready.done() and not self.ready.cancelled() and not self.ready.exception()

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        """Submit a unit.

        Raises:
            RuntimeError: the process died.
        """
        future = self._pool.submit(worker_functions.run_here, unit)
        result: Future[UnitResult] = Future()
        self.waiting.append(result)

        def finish(future: Future[UnitResult]) -> None:
            error = None if future.cancelled() else future.exception()
            if isinstance(error, BrokenExecutor):
                self.is_dead = True
                error = self._lost() if self._was_running(result) else NotStartedError()
            else:
                self.waiting.remove(result)
            # The coordinator may have cancelled the result in the meantime.
            if future.cancelled():
                if result.cancel():
                    result.set_running_or_notify_cancel()
            elif not result.set_running_or_notify_cancel():
                return
            elif error is not None:
                result.set_exception(error)
            else:
                result.set_result(future.result())

        future.add_done_callback(finish)
        return result

    def terminate(self) -> None:
        """Ask the process to end, and drop its units."""
        self._thread = self._manager_thread()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.terminate()

    def close(self) -> None:
        """Wait for the end of the process, and free its resources."""
        # The thread of the pool reads the running trial until it ends; shutdown forgets the thread.
        thread = self._manager_thread() or self._thread
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.join(_END_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        if thread is not None and thread.is_alive():
            thread.join(_END_SECONDS)
        if thread is None or not thread.is_alive():
            self._running_trial.close()

    def _started(self) -> BaseProcess | None:
        return next(iter(self._pool._processes.values()), None)

    def _manager_thread(self) -> Thread | None:
        return cast("Thread | None", self._pool._executor_manager_thread)

    def _was_running(self, result: Future[UnitResult]) -> bool:
        # A process runs one unit at a time: those after the first had not started.
        return self.is_ready and self.waiting[0] is result

    def _lost(self) -> LostWorkerError:
        trial = worker_functions.trial_in(self._running_trial.memory)
        assert self._process is not None
        self._process.join(_END_SECONDS)  # its pipe closes a little before it ends
        code, ended = self._process.exitcode, ""
        if code is not None:  # None if another thread is just asking the system
            ended = f" by signal {_name_of(-code)}" if code < 0 else f" with exit code {code}"
        return LostWorkerError(f"its process ended{ended}", trial)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


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
def _signals_blocked() -> Iterator[None]:
    """Block signals from the terminal while processes start, so that they inherit the block.

    A process that is interrupted during its imports would print a traceback. This process receives
    pending signals at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked = [signal.SIGINT, signal.SIGHUP]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        # The tracker of semaphores would end at SIGHUP, and its start unblocks SIGINT.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
