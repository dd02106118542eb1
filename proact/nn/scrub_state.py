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
from proact.ops.sweep_log import SweepLog

_OVERWRITTEN = (
    "{} was written after ecc wrote its check bits, by an optimizer, load_state_dict of a part of "
    "the model, a normalisation in training mode or an assignment: write to "
    "proact.nn.without_error_correction(model), and protect that again"
)


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
        self._devices: set[torch.device] = set()
        #: Each log with the tensors that it restores.
        self._logs: list[tuple[SweepLog, list[Tensor]]] = []
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
    ) -> dict[str, Scrubbed]:
        """Scrubs tensors; returns the counts of those in which errors were found.

        Outside of injections, a tensor of which nearly all codewords are invalid was not hit by
        errors but written without check bits. It is left as it is.

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
        self._undone.wait()
        if layout != self._layout:
            self._plans, self._layout = make(), layout
        counts: dict[str, Scrubbed] = {}
        for names, plan in self._plans:
            log = SweepLog(plan)
            changed: list[Tensor] = []
            if self.injections:
                self._logs.append((log, changed))
            results = plan.scrub(log)
            if not self.injections:
                for name, code, found in zip(names, plan.codes, results, strict=True):
                    if found != (0, 0) and code.is_overwritten(tensors[name].numel(), sum(found)):
                        log.restore()
                        raise ProactError(_OVERWRITTEN.format(name))
            for name, found in zip(names, results, strict=True):
                if found != (0, 0):
                    counts[name] = found
                    mark_written([tensors[name]])
                    changed.append(tensors[name])
        return counts

    def undo(self, first: int) -> None:
        """Undoes the writes from log number ``first`` on, the last one first."""
        lost: ProactError | None = None
        while len(self._logs) > first:
            log, changed = self._logs[-1]
            try:
                log.restore()
            except ProactError as error:  # memory that is gone: a second attempt cannot help
                lost = lost or error
            mark_written(changed)
            self._logs.pop()
        if lost is not None:
            raise lost

    def mark_undone(self) -> None:
        """Notes that the flips of an injection were undone, for scrubs on other streams."""
        self._undone.clear()
        self._undone.add(self._devices)

    def __reduce__(self) -> tuple[Any, ...]:
        return Scrubs, ()
