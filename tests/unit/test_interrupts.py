"""Does every byte come back when Ctrl-C comes at any moment?"""

from __future__ import annotations

import math
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer

import proact.faults
from conftest import SignedMagnitude, bits_of, same_bits, slow
from proact.encodings import Encoding
from proact.faults import ActivationFlip, BitFlip, Burst, StuckAt, Where, inject
from proact.faults.fault import Fault

pytestmark = pytest.mark.long


def remove_refusals() -> bool:
    """Removes what refuses steps of optimisers, and says whether there was something.

    A leftover would refuse networks of later tests that get the same memory.
    """
    left = list(optimizer._global_optimizer_pre_hooks)
    for hook in left:
        del optimizer._global_optimizer_pre_hooks[hook]
    return bool(left)


@pytest.fixture(autouse=True)
def _others_are_spared() -> Iterator[None]:
    """Ctrl-C between the lines of torch.no_grad leaves gradients off, which is torch's own; and
    programs that run in the background may have been started with Ctrl-C switched off."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)
    torch.set_grad_enabled(True)


#: A nested injection is refused while scales hold faults of the outer one.
ELEMENTS = Where(exclude=Where(kind="scale"))
RARE = [
    (BitFlip(0.02), SignedMagnitude()),
    (Burst(2, 0.02), "float32"),
    (Burst(3, 0.02), SignedMagnitude()),
    (StuckAt(1, 0.02), "q15.16"),
    (BitFlip(0.02, where=ELEMENTS), "int8"),
]
NESTED = [
    *((*each, 2) for each in RARE),
    *(pytest.param(*each, 1, marks=pytest.mark.slow) for each in RARE),
]


# What interrupts a finaliser or a weak reference's callback is reported so, and goes nowhere.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("fault", "encoding", "depth"), [*NESTED, (BitFlip(0.02), "int8", 1)], ids=str
)
def test_interrupts_at_random_moments(fault: Fault, encoding: str | Encoding, depth: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 40))
    before, moments, interrupted, armed = bits_of(model), random.Random(0), 0, False

    def interrupt(*_: object) -> None:
        if armed:
            signal.raise_signal(signal.SIGINT)

    def trial(left: int = depth) -> None:
        if left:
            with inject(model, fault, encoding, seed=left):
                trial(left - 1)

    trial()
    span = math.inf  # of an undisturbed trial: other programs only make one longer
    for _ in range(20):
        began = time.perf_counter()
        trial()
        span = min(span, time.perf_counter() - began)
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(200):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, span))
                trial()
                armed = False
            except KeyboardInterrupt:
                armed = False
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert same_bits(before, model)
            assert not remove_refusals()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert interrupted > 0


ROOM = str(Path(proact.faults.__file__).parent)


class InterruptAt:
    """Sends Ctrl-C before one line of the faults' code runs, counted from 0."""

    def __init__(self, line: int) -> None:
        self.left = line
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        is_ours = frame.f_code.co_filename.startswith(ROOM)
        # Python swallows what a finaliser raises.
        return self._line if is_ours and frame.f_code.co_name != "__del__" else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == -1:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self._line


@pytest.mark.parametrize(
    ("fault", "encoding"),
    [
        (Burst(2, 0.2), "float32"),
        *slow((BitFlip(0.2), "q3.4")),
        ([ActivationFlip(0.1), BitFlip(0.2)], "float32"),
    ],
    ids=str,
)
def test_an_interrupt_before_any_line_of_an_injection(
    fault: Fault | list[Fault], encoding: str | Encoding
) -> None:
    """Whatever ends the block, Ctrl-C included: flips, roundings and hooks are gone."""
    broken, line, is_over = [], 0, False
    while not is_over:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        before, outside = bits_of(model), sys.gettrace()
        interrupt = InterruptAt(line)
        with suppress(KeyboardInterrupt):
            sys.settrace(interrupt)
            try:
                with inject(model, fault, encoding):
                    pass
            finally:
                sys.settrace(outside)
        is_hooked = bool(model._forward_hooks)
        if remove_refusals() or is_hooked or not same_bits(before, model):
            broken.append(interrupt.where)
        is_over, line = not interrupt.where, line + 1
    assert line > 100
    assert sorted(set(broken)) == []


ORDERS = [order for count in (1, 2, 3) for order in permutations(range(count))]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_handler_of_before_is_back_in_whatever_order_injections_end(
    order: tuple[int, ...],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    injections = [inject(nn.Linear(3, 2), BitFlip(0.1)) for _ in order]
    for injection in injections:
        injection.__enter__()
    for position in order:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        injections[position].__exit__(None, None, None)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_handler_that_the_user_sets_in_between_stays(order: tuple[int, ...], step: int) -> None:
    received: list[int] = []

    def users(number: int, frame: FrameType | None) -> None:
        received.append(number)

    injections = [inject(nn.Linear(3, 2), BitFlip(0.1)) for _ in order]
    steps = [lambda i=injection: i.__enter__() for injection in injections]
    steps += [lambda i=injections[position]: i.__exit__(None, None, None) for position in order]
    steps.insert(min(step, len(steps)), lambda: signal.signal(signal.SIGINT, users))
    for each in steps:
        each()
    assert signal.getsignal(signal.SIGINT) is users
    signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_handler_that_the_user_replaces_for_a_while(order: tuple[int, ...]) -> None:
    """She puts back what she found, which may be the handler of an injection."""
    before = signal.getsignal(signal.SIGINT)
    injections = [inject(nn.Linear(3, 2), BitFlip(0.1)) for _ in order]
    injections[0].__enter__()
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    for injection in injections[1:]:
        injection.__enter__()
    signal.signal(signal.SIGINT, found)
    for position in order:
        injections[position].__exit__(None, None, None)
    assert signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_during_an_entry_that_fails_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))

    def fails(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError("refused")

    model = nn.Linear(3, 2)
    monkeypatch.setattr("proact.faults.injection.targets_of", fails)
    with pytest.raises(ValueError, match="refused"), inject(model, BitFlip(0.1)):
        pass
    assert received == [signal.SIGINT]


def test_an_injection_that_another_thread_ends() -> None:
    before = signal.getsignal(signal.SIGINT)
    first, second = (inject(nn.Linear(3, 2), BitFlip(0.1)) for _ in range(2))
    first.__enter__()
    thread = threading.Thread(target=first.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with second, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
