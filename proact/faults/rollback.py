"""Rollback: undo every change, even when the undoing is interrupted."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, ClassVar

# The functions below those of the module signal, whose conversions to enumerations take longer than
# all else here.
_below: Any = importlib.import_module("_signal")
_get_handler, _set_handler = _below.getsignal, _below.signal


class _DeferringHandler:
    """A SIGINT handler for all injections that are entered while it is the current one.

    Each injection joins the current handler instead of adding another, and the last one to leave
    reinstalls ``before``: so the order in which injections end does not matter.
    """

    #: The signal that was deferred last, with the handler that should have received it.
    deferred: ClassVar[tuple[Callable[..., Any], int, FrameType | None] | None] = None

    def __init__(self, before: Callable[..., Any]) -> None:
        self.before = before
        self.uninterrupted: set[CodeType] = set()
        self.holders: set[DeferredInterrupt] = set()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        caller = frame
        while caller is not None:
            if caller.f_code in self.uninterrupted:
                _DeferringHandler.deferred = (self.before, number, frame)
                return
            caller = caller.f_back
        self.before(number, frame)


class DeferredInterrupt:
    """Defers Ctrl-C, between `install` and `uninstall`, while one of the given functions runs.

    A signal handler receives the frame that the signal interrupted. If one of the ``uninterrupted``
    functions is on that frame's stack, the signal is kept for `deliver`; otherwise it goes at once
    to the handler that was installed before. Python runs signal handlers in the main thread only,
    so in other threads all methods do nothing.

    Unlike `proact.interruption.DeferredSignals`, it costs little enough for every injection, and
    works outside of campaigns.
    """

    def __init__(self, *uninterrupted: CodeType) -> None:
        self._uninterrupted = uninterrupted
        self._handler: _DeferringHandler | None = None

    def install(self) -> None:
        if not _in_main_thread():
            return
        current = _get_handler(signal.SIGINT)
        if not callable(current):
            return
        handler = current if isinstance(current, _DeferringHandler) else _DeferringHandler(current)
        self._handler = handler
        handler.uninterrupted.update(self._uninterrupted)
        handler.holders.add(self)
        if handler is not current:
            _set_handler(signal.SIGINT, handler)

    def uninstall(self) -> None:
        """Reinstalls the earlier handler if no other injection needs this one.

        A handler that other code has installed in the meantime stays.
        """
        handler = self._handler
        if handler is None:
            return
        handler.holders.discard(self)
        is_last = not handler.holders and _in_main_thread()
        if is_last and _get_handler(signal.SIGINT) is handler:
            _set_handler(signal.SIGINT, handler.before)

    def deliver(self) -> None:
        """Passes on the signal that was deferred, if there is one."""
        if _DeferringHandler.deferred is None or not _in_main_thread():
            return
        deferred, _DeferringHandler.deferred = _DeferringHandler.deferred, None
        if deferred is not None:
            before, number, frame = deferred
            before(number, frame)


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def undo_all(undos: Iterable[Callable[[], object]]) -> None:
    """Calls each of ``undos``, and calls it once more if it fails.

    All of them are called even if some fail; then the first error is raised.
    """
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
