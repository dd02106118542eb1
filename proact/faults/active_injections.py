"""Injections that are going on, by network: undone in reverse order, whatever the blocks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from proact.encodings import Encoding
from proact.faults.injection_plan import Prepared, layout_of
from proact.faults.rollback import undo_all


@dataclass(eq=False)
class Active:
    """One injection.

    Attributes:
        prepared: what it is made in, from the time on when the network is in the encoding.
        undos: what takes it back, the last one first.
    """

    prepared: Prepared | None = None
    undos: list[Callable[[], object]] = field(default_factory=list)
    has_ended: bool = False


_GOING_ON: WeakKeyDictionary[nn.Module, list[Active]] = WeakKeyDictionary()


def begin(model: nn.Module) -> Active:
    """A new injection into ``model``, which `end` ends."""
    active = Active()
    _GOING_ON.setdefault(model, []).append(active)
    return active


def end(model: nn.Module, active: Active) -> bool:
    """Undoes an injection, and before it those that began later and have ended.

    While a later one goes on, it waits for that: what the later one wrote down is what this one
    made. False where it waits.
    """
    active.has_ended = True
    stack = _GOING_ON.get(model, [])
    while stack and stack[-1].has_ended:
        try:
            undo_all(reversed(stack[-1].undos))
        finally:
            stack.pop()
    return active not in stack


def going_on(model: nn.Module, encoding: Encoding) -> Prepared | None:
    """What an injection that goes on has prepared: its scales are those that count meanwhile."""
    for active in reversed(_GOING_ON.get(model, [])):
        prepared = active.prepared
        if prepared is not None and prepared.encoding == encoding:
            return prepared if prepared.state.layout == layout_of(model) else None
    return None
