"""Injections that are going on, by network: undone in reverse order, whatever the blocks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from proact.encodings import Encoding
from proact.faults.injection_plan import InjectionPlan, memory_layout
from proact.faults.rollback import undo_all


@dataclass(eq=False)
class ActiveInjection:
    """One injection.

    Attributes:
        plan: what it is made in, from the time on when the network is in the encoding.
        undos: what takes it back, the last one first.
    """

    plan: InjectionPlan | None = None
    undos: list[Callable[[], object]] = field(default_factory=list)
    has_ended: bool = False


_ACTIVE: WeakKeyDictionary[nn.Module, list[ActiveInjection]] = WeakKeyDictionary()


def begin_injection(model: nn.Module) -> ActiveInjection:
    """A new injection into ``model``, which `end_injection` ends."""
    active = ActiveInjection()
    _ACTIVE.setdefault(model, []).append(active)
    return active


def end_injection(model: nn.Module, active: ActiveInjection) -> bool:
    """Undoes an injection, and before it those that began later and have ended.

    While a later one goes on, it waits for that: what the later one wrote down is what this one
    made. False where it waits.
    """
    active.has_ended = True
    stack = _ACTIVE.get(model, [])
    while stack and stack[-1].has_ended:
        try:
            undo_all(reversed(stack[-1].undos))
        finally:
            stack.pop()
    return active not in stack


def active_plan(model: nn.Module, encoding: Encoding) -> InjectionPlan | None:
    """What an injection that goes on has plan: its scales are those that count meanwhile."""
    for active in reversed(_ACTIVE.get(model, [])):
        plan = active.plan
        if plan is not None and plan.encoding == encoding:
            return plan if plan.state.layout == memory_layout(model) else None
    return None
