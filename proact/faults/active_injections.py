"""The active injections of each model; they are undone in reverse order of their beginning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from proact.encodings import Encoding
from proact.faults.injection_plan import InjectionPlan
from proact.faults.rollback import undo_all


@dataclass(eq=False)
class ActiveInjection:
    """One injection that has begun.

    Attributes:
        stack: the active injections into the same model, this one included.
        plan: the injection's plan; None until the model is rounded to the encoding.
        undos: functions that undo the injection; they are called from the last to the first.
        has_ended: whether the injection's block has ended.
    """

    stack: list[ActiveInjection]
    plan: InjectionPlan | None = None
    undos: list[Callable[[], object]] = field(default_factory=list)
    has_ended: bool = False


_ACTIVE: WeakKeyDictionary[nn.Module, list[ActiveInjection]] = WeakKeyDictionary()


def begin_injection(model: nn.Module) -> ActiveInjection:
    """Registers a new injection into ``model``; `end_injection` ends it."""
    stack = _ACTIVE.get(model)
    if stack is None:
        stack = _ACTIVE.setdefault(model, [])
    active = ActiveInjection(stack)
    stack.append(active)
    return active


def end_injection(active: ActiveInjection) -> bool:
    """Undoes an injection, after those that began later and have ended.

    While a later injection is active, nothing is undone: the later one has logged words as this one
    left them. This injection is then undone when the later one ends.

    Returns:
        Whether the injection has been undone.
    """
    active.has_ended = True
    stack = active.stack
    while stack and stack[-1].has_ended:
        try:
            undo_all(reversed(stack[-1].undos))
        finally:
            stack.pop()
    return active not in stack


def active_plan(model: nn.Module, encoding: Encoding) -> InjectionPlan | None:
    """The plan of an active injection, whose scales stay valid while it is active; None if there is
    no injection with this encoding or the model's memory has changed."""
    for active in reversed(_ACTIVE.get(model, ())):
        plan = active.plan
        if plan is not None and plan.encoding == encoding:
            return plan if plan.state.has_same_memory(model) else None
    return None
