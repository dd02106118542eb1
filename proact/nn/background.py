"""Calls at intervals from a daemon thread that ends with its owner."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from proact.errors import ProactError


class WeakOwner:
    """A weak reference to a module. A copy or a pickle starts without it."""

    def __init__(self) -> None:
        self._reference: weakref.ref[nn.Module] | None = None

    def set(self, owner: nn.Module) -> None:
        if self() is not owner:
            self._reference = weakref.ref(owner)

    def __call__(self) -> nn.Module | None:
        return None if self._reference is None else self._reference()

    def __reduce__(self) -> tuple[Any, ...]:
        return WeakOwner, ()


class BackgroundCalls:
    """A daemon thread that calls a function of a module at intervals.

    It ends when the module is freed, or with the first error. A copy or a pickle starts without a
    thread, and so does a forked process.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._error: list[BaseException] = []

    def ensure(self, owner: nn.Module, interval: float, call: Callable[[nn.Module], None]) -> None:
        """Starts the thread unless it runs.

        Args:
            owner: the module that ``call`` gets; the thread does not keep it alive.
            interval: the seconds between two calls.
            call: the function; its first call is one interval from now.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        stop, errors = threading.Event(), self._error
        self._stop = stop
        reference = weakref.ref(owner, lambda _: stop.set())

        def run() -> None:
            while not stop.wait(interval):
                module = reference()
                if module is None:
                    return
                try:
                    call(module)
                except BaseException as error:  # raised again where the user sees it
                    errors.append(error)
                    return
                del module

        self._thread = threading.Thread(target=run, name="proact-scrub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after the call that it may be in."""
        self._stop.set()
        self._thread = None

    def raise_error(self) -> None:
        """ProactError if the thread ended with an error."""
        if self._error:
            error = self._error.pop()
            raise ProactError(f"a scrub in the background failed: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return BackgroundCalls, ()
