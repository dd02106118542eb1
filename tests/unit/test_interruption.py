"""Does one exception come for many signals, and does nothing stay behind?"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from proact import interruption
from proact.interruption import DeferredSignals, GracefulShutdown, Terminated

SIGNALS = [
    (signal.SIGINT, KeyboardInterrupt),
    (signal.SIGTERM, Terminated),
    (signal.SIGHUP, Terminated),
]
NUMBERS = [number for number, _ in SIGNALS]


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.fixture(autouse=True)
def _usual_handlers() -> Iterator[None]:
    """Tests can be started with signals ignored or handled."""
    usual = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    before = [signal.signal(*each) for each in zip(NUMBERS, usual, strict=True)]
    yield
    for each in zip(NUMBERS, before, strict=True):
        signal.signal(*each)


@pytest.mark.parametrize(("number", "kind"), SIGNALS)
def test_the_first_signal_raises_and_the_next_do_not(
    number: int, kind: type[BaseException]
) -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        finally:
            for each in NUMBERS * 3:
                signal.raise_signal(each)
                cleaned.append(each)

    with GracefulShutdown(), pytest.raises(kind) as caught:
        work()
    assert cleaned == NUMBERS * 3
    signal.raise_signal(number)  # as to a process that is about to end
    assert getattr(caught.value, "code", None) == (None if number == 2 else 128 + number)


class EndsWithSignal:
    """Receives a signal in its finalizer, where Python drops every exception."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "kind"), SIGNALS)
def test_a_signal_in_a_finalizer_is_not_lost(number: int, kind: type[BaseException]) -> None:
    hook = sys.unraisablehook

    def work() -> None:
        EndsWithSignal(number)
        threading.Event().wait(20)

    with GracefulShutdown(), pytest.raises(kind):
        work()
    assert sys.unraisablehook is hook


def test_other_errors_of_finalizers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ArithmeticError

    with GracefulShutdown():
        Broken()
    assert told == [ArithmeticError]


def test_a_late_signal_raises_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "QUIET_SECONDS", 0.0)
    with GracefulShutdown():
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_a_signal_waits_until_held_work_is_done() -> None:
    done = []

    def work() -> None:
        with DeferredSignals():
            with DeferredSignals():
                signal.raise_signal(signal.SIGTERM)
                done.append(1)
            done.append(2)
        done.append(3)

    with GracefulShutdown(), pytest.raises(Terminated):
        work()
    assert done == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_exception_that_code_in_c_drops_is_raised_again(number: int) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            signal.raise_signal(number)
            raise AttributeError(name)

    has_attribute = ctypes.pythonapi.PyObject_HasAttrString  # it drops every exception
    with GracefulShutdown():
        has_attribute(ctypes.py_object(Interrupted()), b"x")
        with pytest.raises((KeyboardInterrupt, Terminated)), DeferredSignals():
            pass


def test_held_work_in_the_clean_up_is_not_interrupted_again() -> None:
    done = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            with DeferredSignals():
                done.append(1)
            done.append(2)

    with GracefulShutdown(), pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1, 2]


def test_held_work_that_fails_is_interrupted_after_all() -> None:
    def work() -> None:
        with DeferredSignals():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with GracefulShutdown(), pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value.__context__, ValueError)


def test_handlers_of_before_return() -> None:
    before = handlers()
    with GracefulShutdown():
        assert all(one != other for one, other in zip(handlers(), before, strict=True))
    assert handlers() == before


def test_a_signal_after_the_block_acts_as_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = handlers()
    with suppress(Terminated), GracefulShutdown():
        signal.raise_signal(signal.SIGTERM)
    with GracefulShutdown(), pytest.raises(KeyboardInterrupt):  # a new block does not wait
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(interruption, "QUIET_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_blocks_nest_and_the_outer_one_decides() -> None:
    with GracefulShutdown():
        with GracefulShutdown(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # too soon after the first
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_handlers_of_the_caller_stay() -> None:
    received = []

    def mine(number: int, _: object) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, mine)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with GracefulShutdown(), DeferredSignals():
        for number in NUMBERS:
            signal.raise_signal(number)
    assert received == [signal.SIGINT, signal.SIGTERM]
    assert handlers() == [mine, mine, signal.SIG_IGN]


def test_other_threads_change_nothing() -> None:
    def look() -> list[Any]:
        with GracefulShutdown(), DeferredSignals():
            return handlers()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(look).result() == handlers()


ENDING = """
import atexit, signal
from proact.interruption import GracefulShutdown
atexit.register(print, "at exit")
with GracefulShutdown():
    try:
        signal.raise_signal(signal.SIG{})
    finally:
        print("cleaned")
"""


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("HUP", 129)])
def test_the_process_ends_with_the_status_of_the_signal(name: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.splitlines() == ["cleaned", "at exit"]
