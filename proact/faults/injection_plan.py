"""A network made ready for many trials: what it stores, in which words, and the plans over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from proact.encodings import Bits, Encoding
from proact.encodings.base import same_bits
from proact.errors import ProactError
from proact.faults.bounds import RoundedBounds, guards_of
from proact.faults.bursts import burst_places, check_fits
from proact.faults.kinds import BitFlip, Burst, ExactFlips, StoredFault, StuckAt
from proact.faults.replay import Replay
from proact.faults.selectors import Selector, matches, shown
from proact.faults.space import ExposedTensor, exposed_tensor, exposed_tensors
from proact.faults.target_memory import PendingFlips, Target
from proact.nn.tensor_inventory import StoredTensor, has_memory, named_memories, stored_tensors
from proact.ops.plan import FlipPlaces

_Selection = tuple[Selector, Bits, tuple[Selector, ...]]


class _OptimizerSteps:
    """How many steps all optimisers have made: fused ones change parameters behind torch's
    versions."""

    made = 0

    def count(self, *_: object) -> None:
        self.made += 1


_OPTIMIZER_STEPS = _OptimizerSteps()
register_optimizer_step_post_hook(_OPTIMIZER_STEPS.count)


@dataclass
class ModelState:
    """What tells whether a network's memory was moved, replaced or written by torch."""

    layout: list[object]  #: the tree of modules; names, addresses and forms of their tensors
    versions: list[object]  #: of the same tensors, how often they were changed
    steps: int  #: of optimisers


def model_state(model: nn.Module) -> ModelState:
    """What the network stores now."""
    versions: list[object] = []
    return ModelState(memory_layout(model, versions), versions, _OPTIMIZER_STEPS.made)


def memory_layout(model: nn.Module, versions: list[object] | None = None) -> list[object]:
    """Walks the modules itself: this happens twice a trial, and torch's iterators take ten times as
    long."""
    layout: list[object] = []
    pending = [model]
    while pending:
        module = pending.pop()
        for members in (module._parameters, module._buffers):
            for name, tensor in members.items():
                if tensor is None:
                    continue
                # Sparse tensors have no address, and no faults either.
                is_plain = tensor.layout == torch.strided
                address = tensor.data_ptr() if is_plain else 0
                is_dense = is_plain and tensor.is_contiguous()
                layout.append((name, address, tensor.dtype, tensor.shape, is_dense))
                if versions is not None:
                    try:
                        versions.append(tensor._version)
                    except RuntimeError:  # tensors of inference mode do not count their changes
                        versions.append(object())
        layout.append(len(module._modules))
        for name, child in module._modules.items():
            if child is not None:
                layout.append(name)
                pending.append(child)
    return layout


class InjectionPlan:
    """Holds the tensors, not the network."""

    def __init__(self, model: nn.Module, encoding: Encoding) -> None:
        self.encoding = encoding
        self.stored = stored_tensors(model)
        self.guards = guards_of(model)
        self.state = model_state(model)
        self._targets: dict[_Selection, tuple[Target, ...]] = {}
        self._replays: dict[Replay, Target] = {}
        self._positions: dict[Target, list[int]] = {}
        self.names = {s.tensor.data_ptr(): s.name for s in self.stored if has_memory(s.tensor)}

    def unrounded(self) -> Iterator[tuple[StoredTensor, Tensor]]:
        """The tensors that storing would change by a bit or more, and what it would make of them.

        Tensors that cannot be stored are passed over: a fault that hits them is refused. Bounds of
        weight-range come last, and hold what they held; ValueError where they cannot.
        """
        bounds = RoundedBounds(self.guards)
        for stored in bounds.in_order(self.stored):
            rounded = rounded_to(self.encoding, stored, bounds.unrounded(stored))
            bounds.see(stored, stored.tensor if rounded is None else rounded)
            if rounded is not None and not same_bits(rounded, stored.tensor):
                bounds.check(stored, rounded)
                yield stored, rounded

    def targets(self, fault: StoredFault) -> tuple[Target, ...]:
        """The parts of the fault space that ``fault`` hits, one a rate; made once."""
        selectors = tuple(where for where, _ in fault.rates)
        selection = (fault.where, fault.bits, selectors)
        if selection not in self._targets:
            exposed = exposed_tensors(self.stored, self.encoding, fault.where, fault.bits)
            self._targets[selection] = tuple(Target(part) for part in _by_rate(exposed, selectors))
        targets = self._targets[selection]
        if isinstance(fault, Burst):
            for target in targets:
                check_fits(fault, target.exposed)
        if isinstance(fault, ExactFlips) and fault.n > targets[0].bits:
            raise ValueError(f"n is at most {targets[0].bits}, the exposed bits; got {fault.n}")
        return targets

    def replay_target(self, replay: Replay) -> Target:
        """The tensors that a list names; ValueError where it does not fit."""
        if replay.encoding not in (None, self.encoding.name):
            raise ValueError(
                f"the replayed list has bits of {replay.encoding}, and the encoding is "
                f"{self.encoding.name}"
            )
        if replay not in self._replays:
            named = {site.tensor for site in replay.faults}
            hit = [stored for stored in self.stored if not named.isdisjoint(stored.names)]
            exposed = [exposed_tensor(stored, self.encoding, None) for stored in hit]
            replay.check_fits(self.stored, {each.name: each.word for each in exposed})
            self._replays[replay] = Target(exposed)
        return self._replays[replay]

    def flips(
        self, fault: StoredFault | Replay, seed: int, trial: int
    ) -> Iterator[tuple[Target, PendingFlips]]:
        """What a trial flips, part by part, each drawn after the one before is made."""
        if isinstance(fault, Replay):
            target = self.replay_target(fault)
            yield target, target.flips_of(_listed(fault, target))
            return
        for target, (_, ber) in zip(self.targets(fault), fault.rates, strict=True):
            yield target, _pending_flips(fault, ber, target, seed, trial)

    @cached_property
    def is_exact(self) -> bool:
        """Whether memory holds the stored words themselves, whatever is written to it."""
        return not any(rounded_to(self.encoding, stored) is not None for stored in self.stored)

    def refuse_moved(
        self, model: nn.Module, hit: Sequence[StoredTensor], cause: BaseException | None = None
    ) -> None:
        """ProactError where tensors that were changed are not the network's any more."""
        if memory_layout(model) == self.state.layout:
            return
        now = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor, _ in named_memories(model)}
        for stored in hit:
            if now.get(stored.name) != (stored.tensor.data_ptr(), stored.tensor.dtype):
                raise ProactError(
                    f"{stored.name} was moved, converted or replaced while faults were injected; "
                    "only the memory it had before has been restored"
                ) from cause

    def note_restored(self, hit: Sequence[Target], marks: int) -> None:
        """Notes that tensors were marked as changed so often, and are as before."""
        for target in hit:
            for position in self._positions_of(target):
                version = self.state.versions[position]
                if isinstance(version, int):
                    self.state.versions[position] = version + marks

    def _positions_of(self, target: Target) -> list[int]:
        """Where the target's tensors stand in the state: several times, where tied."""
        if target not in self._positions:
            addresses = {tensor.data_ptr() for tensor in target.versioned}
            tensors = [entry for entry in self.state.layout if isinstance(entry, tuple)]
            self._positions[target] = [
                i for i, (_, address, *_) in enumerate(tensors) if address in addresses
            ]
        return self._positions[target]


def rounded_to(
    encoding: Encoding, stored: StoredTensor, values: Tensor | None = None
) -> Tensor | None:
    """``values`` (the tensor's own) after storing; None where no value would change or the encoding
    cannot store them."""
    if not has_memory(stored.tensor):
        return None
    try:
        word = encoding.word(stored)
    except (TypeError, ValueError):
        return None
    rounded = word.rounded(stored.tensor if values is None else values)
    return None if rounded is stored.tensor else rounded


def _by_rate(
    tensors: Sequence[ExposedTensor], selectors: tuple[Selector, ...]
) -> list[list[ExposedTensor]]:
    parts: list[list[ExposedTensor]] = [[] for _ in selectors]
    for exposed in tensors:
        for part, where in zip(parts, selectors, strict=True):
            if matches(where, exposed.stored):
                part.append(exposed)
                break
    for part, where in zip(parts, selectors, strict=True):
        if not part:
            raise ValueError(
                f"the bit error rate of {shown(where)!r} is used by no stored tensor: it matches "
                "none, or those before it take them all"
            )
    return parts


def _pending_flips(
    fault: StoredFault, ber: float, target: Target, seed: int, trial: int
) -> PendingFlips:
    if isinstance(fault, BitFlip):
        return target.flips_at(ber, seed, trial)
    if isinstance(fault, Burst):
        return target.flips_of(burst_places(fault, ber, target.exposed, seed, trial))
    if isinstance(fault, ExactFlips):
        return target.flips_of(target.draws.flip_exactly(fault.n, seed, trial).columns().places)
    if isinstance(fault, StuckAt):
        stuck = target.draws.flip(ber, seed, trial).columns().places
        changed = target.stored_bits(stuck) != fault.value
        return target.flips_of(stuck.take(changed))
    raise TypeError(f"faults are of proact.faults' kinds, got {type(fault).__name__}")


def _listed(replay: Replay, target: Target) -> FlipPlaces:
    number = {name: index for index, e in enumerate(target.exposed) for name in e.stored.names}
    n = len(replay.faults)
    tensor = np.fromiter((number[site.tensor] for site in replay.faults), np.uint32, n)
    element = np.fromiter((site.element for site in replay.faults), np.uint64, n)
    bit = np.fromiter((site.bit for site in replay.faults), np.uint8, n)
    return FlipPlaces(tensor, element, bit)


#: Plans by model. A plan holds detached tensors, so that no entry keeps its key alive.
_CACHED_PLANS: WeakKeyDictionary[nn.Module, dict[Encoding, InjectionPlan]] = WeakKeyDictionary()


def cached_plan(model: nn.Module, encoding: Encoding) -> InjectionPlan | None:
    """What `cache_plan` kept, where the network still stores the same numbers.

    Where memory holds the stored words themselves, the same tensors will do. A write past torch's
    version counters (``.data``, numpy) is not noticed.
    """
    plan = _CACHED_PLANS.get(model, {}).get(encoding)
    if plan is None:
        return None
    if plan.is_exact:
        return plan if plan.state.layout == memory_layout(model) else None
    return plan if plan.state == model_state(model) else None


def cache_plan(model: nn.Module, plan: InjectionPlan) -> None:
    """Keeps what was prepared for the next injection into the same network."""
    _CACHED_PLANS.setdefault(model, {})[plan.encoding] = plan
