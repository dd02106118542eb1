"""Undoing, whatever happens meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any


class CtrlC:
    """While it is installed, Ctrl-C waits for the end of functions that must not be cut in two.

    A signal's handler gets the frame that it interrupts: with one of these functions on the stack
    the signal is noted, for `deliver`; anywhere else it goes to the handler that was there before.
    Handlers run in the main thread alone; elsewhere this does nothing.
    """

    def __init__(self, *whole: CodeType) -> None:
        self._whole = whole
        self._before: Any = None
        self._noted: tuple[int, FrameType | None] | None = None

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._before = handler
                signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        caller = frame
        while caller is not None:
            if caller.f_code in self._whole:
                self._noted = (number, frame)
                return
            caller = caller.f_back
        self._before(number, frame)

    def uninstall(self) -> None:
        """Not where a later one is installed: that one passes on to this, and this to the first."""
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._before)

    def deliver(self) -> None:
        """Hands on what was noted."""
        noted, self._noted = self._noted, None
        if noted is not None:
            self._before(*noted)


def undo_all(undos: Iterable[Callable[[], object]]) -> None:
    """Calls each of them, again where it fails; the first error is raised when all are done."""
    first: BaseException | None = None
    for undo in undos:
        for _ in range(2):
            try:
                undo()
                break
            except BaseException as error:
                first = first or error
    if first is not None:
        raise first
