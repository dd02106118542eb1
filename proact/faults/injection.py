"""Injection: fault the stored bits of a model for the duration of a block, then restore them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proact.encodings import Encoding
from proact.errors import ProactError
from proact.faults.activation_hooks import ActivationFaultHooks
from proact.faults.activations import ActivationFlip, layers_of
from proact.faults.active_injections import (
    ActiveInjection,
    active_plan,
    begin_injection,
    end_injection,
)
from proact.faults.fault import Fault, StoredFault
from proact.faults.injection_plan import InjectionPlan, cache_plan, cached_plan
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.optimizer_guard import forbid_training
from proact.faults.record import Record, TensorFlips
from proact.faults.replay import Replay
from proact.faults.reversible_flips import ReversibleFlips
from proact.faults.rollback import DeferredInterrupt
from proact.faults.rounding_undo import undo_of_rounding
from proact.faults.target_memory import Target, mark_changed
from proact.interruption import INTERRUPTIONS
from proact.limits import SEEDS, TRIALS
from proact.nn.model_kinds import checked_module
from proact.nn.site import disable_fast_path, release_fast_path
from proact.nn.tensor_inventory import StoredTensor
from proact.ops._memory import once
from proact.ops.plain_memory import check_writable
from proact.ops.plan import checked_integer
from proact.ops.seeds import derived_seed


def inject(
    model: nn.Module,
    fault: Fault | Sequence[Fault],
    encoding: EncodingLike = "float32",
    seed: int = 0,
    trial: int = 0,
    *,
    allow_training: bool = False,
    log_activations: bool = False,
) -> AbstractContextManager[Record]:
    """Faults ``model`` inside a ``with`` block and restores every flipped word when the block ends.

    Words are restored however the block ends, exceptions and Ctrl-C included, and even if the model
    has overwritten a faulted word. Other changes that the block makes (batch statistics, for
    example) are kept.

    If the encoding rounds, all parameters are rounded on entry; on exit, those that nothing else
    has changed get their original values back. A model from `encode` is rounded already and skips
    both steps. Writes to such a model that bypass torch's version counters (through ``.data`` or
    numpy) are not noticed.

    Args:
        model: the model. It is faulted in place, not copied.
        fault: one fault or several. Several faults act one after the other and independently: of
            the faults in stored tensors, and of those in activations, the first uses ``seed`` and
            each later one a seed derived from ``seed`` and its position. A bit that two of them
            flip has its original value again and counts twice.
        encoding: the stored form of the parameters: ``"float32"``, ``"int8"``, ``"q15.16+bch2"``,
            ..., or a mapping of selectors to these, whose first match counts.
        seed: identifies the experiment; in [0, 2^63).
        trial: identifies one fault pattern of the experiment; in [0, 2^32). The same (seed, trial)
            flips the same bits in every tensor of the same name and shape, whatever the model.
        allow_training: lets optimizers step inside the block. Flipped words lose the effect of such
            a step when they are restored; all other words keep it.
        log_activations: makes `Record.faults` list flips in activations too, which takes memory.

    Returns:
        A context manager that can be entered once and returns a `Record` of the realised flips.

    Raises:
        ValueError, TypeError: a parameter that the encoding cannot store, an argument out of range,
            or a fault that does not fit the model. The model is then unchanged.
        ProactError: parameters were moved or converted inside the block, or an optimizer was about
            to update faulted parameters.
    """
    encoding = checked_encoding(encoding)
    faults, seed, trial = checked_pattern(fault, seed, trial)
    checked_module(model)

    def find_plan() -> tuple[InjectionPlan, bool]:
        ready = existing_plan(model, encoding)
        return (InjectionPlan(model, encoding), False) if ready is None else (ready, True)

    return Injection(model, find_plan, faults, seed, trial, allow_training, log_activations)


def existing_plan(model: nn.Module, encoding: Encoding) -> InjectionPlan | None:
    """The plan of an injection under way, or one that was kept and still fits; None without one."""
    return active_plan(model, encoding) or cached_plan(model, encoding)


class Injection:
    """One injection, from entry to exit.

    This is a class with Ctrl-C deferred, not a generator: an interruption between the first part of
    a generator and the block would leave the faults in memory.

    ``find_plan`` returns the plan and whether the model is rounded to its encoding already.
    """

    def __init__(
        self,
        model: nn.Module,
        find_plan: Callable[[], tuple[InjectionPlan, bool]],
        faults: tuple[Fault, ...],
        seed: int,
        trial: int,
        allow_training: bool,
        log_activations: bool,
        may_move: bool = True,
    ) -> None:
        self._model, self._find_plan = model, find_plan
        self._may_move = may_move
        self._faults, self._seed, self._trial = faults, seed, trial
        self._allow_training, self._log_activations = allow_training, log_activations
        self._active: ActiveInjection | None = None
        self._plan: InjectionPlan | None = None
        self._hit: list[tuple[Target, ReversibleFlips]] = []
        #: The tensors that were hit, in the order of ``_hit``.
        self._changed: list[_Changed] = []
        self._rounded: list[StoredTensor] = []
        self._interrupt = DeferredInterrupt(
            Injection.__enter__.__code__, Injection.__exit__.__code__
        )

    def __enter__(self) -> Record:
        if self._active is not None:
            raise ProactError("an injection can be entered only once: call inject again")
        try:
            self._interrupt.install()
            record = self._begin()
            self._interrupt.deliver()
        except BaseException as error:
            self._end(error)
            self._interrupt.deliver()
            raise
        return record

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)
        self._interrupt.deliver()

    def _begin(self) -> Record:
        plan, is_ready = self._find_plan()
        stored: list[StoredFault | Replay] = []
        hooked: list[tuple[ActivationFlip, dict[str, nn.Module]]] = []
        for fault in self._faults:  # before anything changes
            if isinstance(fault, (StoredFault, Replay)):
                targets_of(plan, fault)
                stored.append(fault)
            elif isinstance(fault, ActivationFlip):
                hooked.append((fault, layers_of(self._model, fault)))
        active = self._active = begin_injection(self._model)
        if not is_ready:
            plan = self._in_its_encoding(plan, active)
        self._plan = active.plan = plan
        record = Record(plan.encoding.name)
        if not self._allow_training:
            active.undos.append(forbid_training(plan).remove)
        if hooked:
            self._attach(hooked, record, active)
        # What guards wrote is undone before the flips.
        guarded = [guard.begin_injection() for guard in plan.guards.values()]
        active.undos.extend(end for _, end in guarded)
        active.undos.append(record.restore)
        active.undos.extend(undo for undo, _ in guarded)
        self._flip(plan, stored, record)
        return record

    def _in_its_encoding(self, plan: InjectionPlan, active: ActiveInjection) -> InjectionPlan:
        """Rounds the model for the duration of the injection."""
        if plan.is_exact:
            cache_plan(self._model, plan)
            return plan
        unrounded = list(plan.unrounded())
        for stored, _ in unrounded:  # before anything changes
            check_writable(stored.name, stored.tensor)
        for stored, rounded in unrounded:
            self._rounded.append(stored)
            memory, values = once(stored.tensor), once(rounded, stored.tensor)
            active.undos.append(undo_of_rounding(stored.name, memory, values))
            memory.copy_(values)
        return InjectionPlan(self._model, plan.encoding) if self._rounded else plan

    def _attach(
        self,
        hooked: list[tuple[ActivationFlip, dict[str, nn.Module]]],
        record: Record,
        active: ActiveInjection,
    ) -> None:
        # The fused kernels for transformers bypass the layers, or give them nested tensors.
        disable_fast_path()
        active.undos.append(release_fast_path)
        for position, (fault, layers) in enumerate(hooked):
            seed = seed_of(self._seed, position)
            pattern = ActivationFaultHooks(fault, record, seed, self._trial, self._log_activations)
            active.undos.append(pattern.end)
            for name, module in layers.items():
                active.undos.append(pattern.attach(name, module).remove)

    def _flip(
        self, plan: InjectionPlan, stored: Sequence[StoredFault | Replay], record: Record
    ) -> None:
        seeded = [(fault, seed_of(self._seed, i)) for i, fault in enumerate(stored)]
        record.exposed_bits = sum(t.bits for fault in stored for t in targets_of(plan, fault))
        # Unless the model is private, its memory was compared with the plan just now.
        for target, pending in plan.flips(seeded, self._trial, self._may_move):
            self._hit.append((target, pending.flips))
            record.add(TensorFlips(target.exposed, pending.flips))
            pending.apply()
            self._changed.append(_Changed.by(target, pending.flips))
            mark_changed(self._changed[-1].versioned)
        # An enclosing autocast may hold casts of the weights without the faults.
        torch.clear_autocast_cache()

    def _end(self, error: BaseException | None) -> None:
        try:
            self._undo(error)
        finally:
            self._interrupt.uninstall()

    def _undo(self, error: BaseException | None) -> None:
        active, plan = self._active, self._plan
        if active is None:
            return
        try:
            is_undone = end_injection(active)
        finally:
            for target, flips in self._hit[len(self._changed) :]:  # flips that were interrupted
                self._changed.append(_Changed.by(target, flips))
            for changed in self._changed:
                mark_changed(changed.versioned)
            torch.clear_autocast_cache()
        if plan is None:
            return
        # Exact plans do not compare versions, and a plan that has rounded is none.
        if is_undone and (self._rounded or not plan.is_exact):
            for changed in self._changed:
                plan.state.note_restored(changed.versioned, marks=2)
        if self._may_move and not isinstance(error, INTERRUPTIONS):
            addresses = [address for changed in self._changed for address in changed.addresses]
            if self._rounded or not plan.state.still_holds(self._model, addresses):
                plan.refuse_moved(self._model, self._faulted(), error)

    def _faulted(self) -> Iterator[StoredTensor]:
        """The tensors that were rounded or could be hit."""
        yield from self._rounded
        for target, _ in self._hit:
            yield from target.stored


class _Changed(NamedTuple):
    """Tensors that the flips of one target hit."""

    versioned: list[Tensor]  #: those with a version counter
    addresses: list[int]  #: of all of them

    @classmethod
    def by(cls, target: Target, flips: ReversibleFlips) -> _Changed:
        numbers = flips.tensors()
        return cls(target.versioned(numbers), [target.addresses[number] for number in numbers])


def targets_of(plan: InjectionPlan, fault: Fault) -> tuple[Target, ...]:
    """The parts of the stored tensors that ``fault`` hits; raises if it does not fit the model."""
    if isinstance(fault, StoredFault):
        return plan.targets(fault)
    return (plan.replay_target(fault),) if isinstance(fault, Replay) else ()


def checked_pattern(
    fault: Fault | Sequence[Fault], seed: int, trial: int
) -> tuple[tuple[Fault, ...], int, int]:
    """The faults as a tuple, with seed and trial; raises if one of them is invalid."""
    faults = (fault,) if isinstance(fault, Fault) else _checked_faults(fault)
    return (
        faults,
        checked_integer("seed", seed, SEEDS),
        checked_integer("trial", trial, TRIALS),
    )


def _checked_faults(given: Sequence[Fault]) -> tuple[Fault, ...]:
    faults = tuple(given) if isinstance(given, Sequence) else (given,)
    for each in faults:
        if not isinstance(each, Fault):
            raise TypeError(
                "fault must be a fault of proact.faults, such as BitFlip(1e-5), got "
                f"{type(each).__name__}"
            )
    if not faults:
        raise ValueError("fault must hold at least one fault, got an empty sequence")
    return faults


def seed_of(seed: int, position: int) -> int:
    """The seed of fault number ``position`` in stored tensors, or in activations, of one injection.

    The first fault has the injection's seed, each later one a derived seed, so that they are
    independent.
    """
    return seed if position == 0 else derived_seed(seed, "fault", position)
