"""The plans with which a guard scrubs its tensors, and logs of its writes during injections."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proact.errors import ProactError
from proact.nn.stored_guard import mark_written
from proact.ops.cuda_stream import StreamMarks
from proact.ops.scrub_plan import Scrubbed, ScrubPlan
from proact.ops.sweep_counts import SweepCounts
from proact.ops.sweep_log import SweepLog

_OVERWRITTEN = (
    "{} was written after ecc wrote its check bits, by an optimizer, load_state_dict of a part of "
    "the model, a normalisation in training mode or an assignment: write to "
    "proact.nn.without_error_correction(model), and protect that again"
)


#: For each plan the names of its tensors, and what its scrub found in them.
ScrubCounts = list[tuple[list[str], SweepCounts[Scrubbed]]]


class Scrubs:
    """Plans that are reused while tensors stay in their memory, and what they wrote.

    A copy or a pickle starts empty.

    Attributes:
        injections: the number of injections that are open; writes are logged if there are any.
    """

    def __init__(self) -> None:
        self.injections = 0
        #: Flips are undone on the stream of their injection, and other streams must not scrub them.
        self._undone = StreamMarks()
        self._made = StreamMarks()  # the last scrub
        self._devices: set[torch.device] = set()
        self._logs: list[_LoggedScrub] = []
        #: The number of logs that `settle` has met.
        self._settled = 0
        self._plans: Sequence[tuple[list[str], ScrubPlan]] = ()
        self._layout: list[Hashable] = []

    @property
    def logged(self) -> int:
        """The number of logs so far, which `undo` takes."""
        return len(self._logs)

    def run(
        self,
        tensors: Mapping[str, Tensor],
        dependence: Hashable,
        make: Callable[[], Sequence[tuple[list[str], ScrubPlan]]],
    ) -> ScrubCounts:
        """Scrubs tensors; counts the errors that were found.

        Outside of injections, a tensor of which nearly all codewords are invalid was not hit by
        errors but written without check bits. It is left as it is.

        During an injection and without autograd, the host does not wait until a GPU has made the
        scrub. It does so when the next scrub begins, so that it is at most one forward ahead.

        Args:
            tensors: all tensors of the plans, by name.
            dependence: what the plans depend on besides the tensors' memory.
            make: makes the plans, in the order in which they run, each with the names of its
                tensors; called if the memory or ``dependence`` has changed.

        Raises:
            ProactError: a tensor was written.
        """
        layout: list[Hashable] = [
            (name, t.data_ptr(), t.dtype, t.shape, t.stride()) for name, t in tensors.items()
        ]
        layout.append(dependence)
        self._devices = {tensor.device for tensor in tensors.values()}
        self.order()
        if layout != self._layout:
            self._plans, self._layout = make(), layout
        self.settle()
        self._made.clear()
        later = self.injections > 0 and not torch.is_grad_enabled()
        counts: ScrubCounts = []
        for names, plan in self._plans:
            log = SweepLog(plan)
            scrubbed = _LoggedScrub(log, [tensors[name] for name in names])
            if self.injections:
                self._logs.append(scrubbed)
            try:
                found = plan.scrub(log, later=later)
            finally:
                self._made.add(self._devices)
            counts.append((names, found))
            scrubbed.counts = found
            if not self.injections:
                for name, code, errors in zip(names, plan.codes, found.read(), strict=True):
                    if any(errors) and code.is_overwritten(tensors[name].numel(), sum(errors)):
                        log.restore()
                        raise ProactError(_OVERWRITTEN.format(name))
            if not (later and found.are_late):
                scrubbed.mark_written()
        return counts

    def order(self) -> None:
        """Lets work on the current streams begin after the last scrub and after flips that were
        undone; the host goes on."""
        self._undone.wait()
        self._made.wait()

    def settle(self) -> None:
        """Reads what the scrubs so far have found, marks the tensors that they changed as written,
        and gives back memory of their logs. Waits until a GPU has made them."""
        for earlier in self._logs[self._settled :]:
            earlier.settle()
        self._settled = len(self._logs)

    def undo(self, first: int) -> None:
        """Undoes the writes from log number ``first`` on, the last one first."""
        self._settled = min(self._settled, first)
        lost: ProactError | None = None
        while len(self._logs) > first:
            try:
                self._logs[-1].restore()
            except ProactError as error:  # memory that is gone: a second attempt cannot help
                lost = lost or error
            self._logs.pop()
        if lost is not None:
            raise lost

    def mark_undone(self) -> None:
        """Notes that the flips of an injection were undone, for scrubs on other streams."""
        self._undone.clear()
        self._undone.add(self._devices)

    def __reduce__(self) -> tuple[Any, ...]:
        return Scrubs, ()


class _LoggedScrub:
    """A scrub by one plan, with the log that undoes it.

    Attributes:
        counts: what it found; None if it was interrupted.
    """

    def __init__(self, log: SweepLog, tensors: list[Tensor]) -> None:
        self._log, self._tensors = log, tensors
        self.counts: SweepCounts[Scrubbed] | None = None
        #: None while it is not known.
        self._changed: list[Tensor] | None = None

    def mark_written(self) -> None:
        """Raises the version counters of tensors that changed; waits until a GPU has made the
        scrub."""
        if self._changed is None and self.counts is not None:
            found = self.counts.read()
            self._changed = [
                t for t, errors in zip(self._tensors, found, strict=True) if any(errors)
            ]
            mark_written(self._changed)

    def settle(self) -> None:
        self.mark_written()
        self._log.keep_used_slots()

    def restore(self) -> None:
        try:
            self._log.restore()
        finally:
            # All of them if a GPU may not have made the scrub yet, for which nothing waits here.
            mark_written(self._tensors if self._changed is None else self._changed)
