"""End work in good order on Ctrl-C, SIGTERM and SIGHUP, however often they arrive.

Python raises KeyboardInterrupt at every Ctrl-C, so a second one cuts the clean-up after the first,
and ends at SIGTERM and SIGHUP without any clean-up.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

#: Signals that follow the first one within this time are ignored, so that nothing cuts the
#: clean-up. A later signal raises again, in case the clean-up takes too long.
QUIET_SECONDS = 5.0
#: A signal whose exception was lost is sent again after this time.
_AGAIN_SECONDS = 0.01


class Terminated(SystemExit):
    """SIGTERM or SIGHUP ended the work: the exit status is 128 plus the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


#: The exceptions that ask the work to end.
INTERRUPTIONS = (KeyboardInterrupt, Terminated)


class GracefulShutdown:
    """Raises one exception in the block for the first of the signals that ask the process to end.

    SIGINT raises KeyboardInterrupt; SIGTERM and SIGHUP raise `Terminated`. A handler that the
    caller has installed stays, as does an ignored signal (``nohup``). A block inside another one,
    or in a thread other than the main one, changes nothing. If a signal ended the block, signals
    that follow within `QUIET_SECONDS` are ignored, and later ones act as before the block.

    Python drops an exception that is raised in a finalizer (``__del__``) or in a callback of a weak
    reference, whoever wrote it. The signal is then sent again.
    """

    _active: GracefulShutdown | None = None

    def __init__(self) -> None:
        self._replaced: dict[int, Any] = {}
        #: The time of the last signal that was not ignored.
        self._last: float | None = None
        self._held = 0
        self._pending: int | None = None
        #: The signal whose exception was raised last.
        self._raised: int | None = None
        self._hook_before = sys.unraisablehook

    def __enter__(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if GracefulShutdown._active is not None or not is_main:
            return
        GracefulShutdown._active = self
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._unraisable
        try:
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
                if number is not None and _is_usual(signal.getsignal(number), usual):
                    self._replaced[number] = usual
                    is_ctrl_c = name == "SIGINT"
                    signal.signal(number, self._receive if is_ctrl_c else self._receive_other)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if GracefulShutdown._active is not self:
            return
        self._raised = None  # the work is over: nothing is left to interrupt
        # After a signal, the handlers stay to ignore the next ones until the process has ended.
        with DeferredSignals():
            if self._last is None:
                self._restore()
            if sys.unraisablehook == self._unraisable:
                sys.unraisablehook = self._hook_before
            GracefulShutdown._active = None

    def _restore(self) -> None:
        for number, handler in self._replaced.items():
            if getattr(signal.getsignal(number), "__self__", None) is self:
                signal.signal(number, handler)

    def _receive_other(self, number: int, frame: FrameType | None) -> None:
        # An injection replaces the handler of Ctrl-C while it writes memory, to defer the signal.
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and getattr(handler, "before", None) == self._receive:
            handler(number, frame)
        else:
            self._receive(number, frame)

    def _receive(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._last is not None and now - self._last < QUIET_SECONDS:
            return
        self._last = now
        if GracefulShutdown._active is not self:
            self._restore()
            signal.raise_signal(number)
        elif self._held:
            self._pending = number
        else:
            self.raise_for(number)

    def raise_for(self, number: int) -> NoReturn:
        """Raises the exception of a signal."""
        self._raised = number
        raise _exception_for(number)

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Called by Python with each exception that it drops."""
        if not isinstance(lost.exc_value, INTERRUPTIONS):
            self._hook_before(lost)
            return
        self._last = None
        # Raised in this function, the exception would be lost again.
        _thread.start_new_thread(_send_soon, (_number_of(lost.exc_value),))


class DeferredSignals:
    """Delays the exceptions of `GracefulShutdown` until the end of the block.

    An exception that was raised earlier and lost is raised again there. Use the block around short
    work that must not stop half-way. Injections, which also run without a
    `GracefulShutdown`, have `proact.faults.rollback.DeferredInterrupt`.
    """

    def __enter__(self) -> None:
        # Python raises the exceptions of signals in the main thread.
        is_main = threading.current_thread() is threading.main_thread()
        self._end = GracefulShutdown._active if is_main else None
        if self._end is not None:
            self._end._held += 1

    def __exit__(self, *_: object) -> None:
        end = self._end
        if end is None:
            return
        end._held -= 1
        if end._held:
            return
        if end._pending is not None:
            number, end._pending = end._pending, None
            end.raise_for(number)
        if end._raised is not None and sys.exc_info()[1] is None:
            # Work goes on, so code in C has dropped the exception: Python tells nobody of that.
            end.raise_for(end._raised)


def _is_usual(handler: Any, usual: Any) -> bool:
    """Whether a handler is the usual one, or was left by an earlier `GracefulShutdown`."""
    return handler == usual or isinstance(getattr(handler, "__self__", None), GracefulShutdown)


def _send_soon(number: int) -> None:
    time.sleep(_AGAIN_SECONDS)
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)  # this also wakes the main thread where it waits
    else:
        signal.raise_signal(number)


def _number_of(error: BaseException) -> int:
    return error.number if isinstance(error, Terminated) else signal.SIGINT


def _exception_for(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
