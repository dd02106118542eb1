"""Injection plans: the tensors, words and targets that all trials on one model share."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from proact.encodings import Bits, Encoding
from proact.encodings.base import same_bits
from proact.encodings.scaled_words import StoredScale
from proact.errors import ProactError
from proact.faults.bounds import RoundedBounds, guards_of, refuse_recoding
from proact.faults.bursts import check_fits
from proact.faults.coded_target import CodedTarget
from proact.faults.drawn_flips import drawn_places, listed_places, pending_flips
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.fault import StoredFault
from proact.faults.kinds import Burst, ExactFlips
from proact.faults.model_state import ModelState
from proact.faults.replay import Replay
from proact.faults.reversible_flips import PendingFlips
from proact.faults.selectors import Selector, matches, shown
from proact.faults.space import refuse_packed
from proact.faults.stored_forms import StoredForms
from proact.faults.strata import BitFlipStratum
from proact.faults.target_memory import Target
from proact.nn.model_kinds import refuse_renormalised, renormalised_layers
from proact.nn.packed_state import packed_weights
from proact.nn.tensor_inventory import StoredTensor, named_memories, stored_tensors
from proact.ops._memory import may_overlap, once
from proact.ops.plain_memory import has_plain_memory
from proact.ops.plan import FlipPlaces
from proact.text import short_repr

#: The replays whose targets are kept.
_MOST_REPLAYS = 16
_Selection = tuple[Selector, Bits, tuple[object, ...]]


class InjectionPlan:
    """Everything that trials on one model in one encoding share.

    A plan holds the model's tensors but not the model itself.

    Attributes:
        encoding: the stored form of the parameters.
        stored: the stored tensors, each memory once.
        packed: weights in a packed form, which no fault can hit.
        guards: the guards on stored values by qualified name.
        state: the state of the model's memory when the plan was made.
        names: the qualified names of the stored tensors by address.
    """

    def __init__(self, model: nn.Module, encoding: Encoding) -> None:
        self.encoding = encoding
        self.stored = stored_tensors(model)
        self.packed = packed_weights(model)
        self._renormalised = renormalised_layers(model)
        self.guards = guards_of(model)
        refuse_recoding(self.guards, self.stored, encoding)
        self._forms = StoredForms(self.stored, encoding)
        self.state = ModelState(model)
        self._targets: dict[_Selection, tuple[Target, ...]] = {}
        #: The last fault with its targets: looking it up by its fields takes longer.
        self._last: tuple[StoredFault, tuple[Target, ...]] | None = None
        self._replays: dict[Replay, Target] = {}
        self._last_merged: tuple[tuple[Target, ...], CodedTarget] | None = None
        self.names = {
            s.tensor.data_ptr(): s.name for s in self.stored if has_plain_memory(s.tensor)
        }

    @property
    def scales(self) -> list[StoredScale]:
        """The scales and zero points in the fault space."""
        return [each for each in self._forms.tensors if isinstance(each, StoredScale)]

    def unrounded(self) -> Iterator[tuple[StoredTensor, Tensor]]:
        """Each tensor that the encoding would change, with its rounded values.

        Tensors that the encoding cannot store are skipped; a fault that hits them is refused
        elsewhere. Bounds of weight-range come last and are widened to admit the same elements as
        before.

        Raises:
            ValueError: the encoding cannot represent a bound that does so.
        """
        bounds = RoundedBounds(self.guards)
        for stored in bounds.in_order(self.stored):
            rounded = rounded_to(self.encoding, stored, bounds)
            bounds.include(stored, stored.tensor if rounded is None else rounded)
            if rounded is not None and not same_bits(rounded, stored.tensor):
                bounds.check(stored, rounded)
                yield stored, rounded

    def targets(self, fault: StoredFault) -> tuple[Target, ...]:
        """The parts of the fault space that ``fault`` hits, one for each rate; made once."""
        if self._last is not None and self._last[0] is fault:
            return self._last[1]
        targets = self._targets_of(fault)
        self._last = fault, targets
        return targets

    def _targets_of(self, fault: StoredFault) -> tuple[Target, ...]:
        selectors = tuple(where for where, _ in fault.rates)
        stratum = fault if isinstance(fault, BitFlipStratum) else None
        divided = selectors if stratum is None else (stratum.critical, stratum.shared)
        selection = (fault.where, fault.bits, divided)
        if selection not in self._targets:
            refuse_packed(self.packed, fault.where)
            exposed = self._forms.exposed(fault.where, fault.bits)
            self._refuse_renormalised(exposed)
            parts = _by_rate(exposed, selectors) if stratum is None else stratum.split(exposed)
            self._targets[selection] = tuple(map(self._target_of, parts))
        targets = self._targets[selection]
        if stratum is not None:
            stratum.check_fits([target.bits for target in targets])
        if isinstance(fault, Burst):
            for target in targets:
                check_fits(fault, target.exposed)
        if isinstance(fault, ExactFlips) and fault.n > targets[0].bits:
            raise ValueError(
                f"n must be at most {targets[0].bits}, the number of exposed bits, got "
                f"{short_repr(fault.n)}"
            )
        return targets

    def replay_target(self, replay: Replay) -> Target:
        """The tensors that a replay names; ValueError if the replay does not fit the model."""
        if replay.encoding not in (None, self.encoding.name):
            raise ValueError(
                f"the replay was recorded in the encoding {replay.encoding}, and the encoding of "
                f"this injection is {self.encoding.name}"
            )
        if replay not in self._replays:
            # A search injects thousands of replays, each of them for a moment.
            if len(self._replays) >= _MOST_REPLAYS:
                self._replays.clear()
            named = {site.tensor for site in replay.faults}
            refuse_packed(self.packed, tuple(map(glob.escape, sorted(named))))
            stored = self._forms.tensors
            hit = [each for each in stored if not named.isdisjoint(each.names)]
            exposed = [self._forms.exposed_tensor(each, None) for each in hit]
            replay.check_fits(stored, {each.name: each.word for each in exposed})
            self._refuse_renormalised(exposed)
            self._replays[replay] = self._target_of(exposed)
        return self._replays[replay]

    def _refuse_renormalised(self, exposed: Sequence[ExposedTensor]) -> None:
        layers = dict.fromkeys(each.stored.layer for each in exposed)
        refuse_renormalised(self._renormalised, layers, "injection")

    def _target_of(self, exposed: Sequence[ExposedTensor]) -> Target:
        return CodedTarget(exposed) if self.encoding.is_coded else Target(exposed)

    def flips(
        self,
        faults: Sequence[tuple[StoredFault | Replay, int]],
        trial: int,
        is_checked: bool = False,
    ) -> Iterator[tuple[Target, PendingFlips]]:
        """The flips of a trial, part by part; each is drawn after the previous one was applied.

        Args:
            faults: the faults, each with its seed.
            trial: the trial number.
            is_checked: tells that the caller has just seen the memory of this plan in its place.
        """
        self._forms.refuse_changed_scales()
        if (self.encoding.is_coded and _has_several_parts(faults)) or self._splits_scales(faults):
            yield self._merged(faults, trial)
            return
        for fault, seed in faults:
            if isinstance(fault, Replay):
                target = self.replay_target(fault)
                yield target, target.flips_of(listed_places(fault, target))
                continue
            for part, target, ber in self._parts(fault):
                yield target, pending_flips(fault, part, ber, target, seed, trial, is_checked)

    def _splits_scales(self, faults: Sequence[tuple[StoredFault | Replay, int]]) -> bool:
        """Whether flips in scales would come before others: no word can be told from its value once
        its scale has changed."""
        targets = [
            target
            for fault, _ in faults
            for target in (
                (self.replay_target(fault),) if isinstance(fault, Replay) else self.targets(fault)
            )
        ]
        return len(targets) > 1 and any(target.has_scales for target in targets)

    def number_of_flips(self, fault: StoredFault, seed: int, trial: int) -> int:
        """The number of stored bits that a trial flips."""
        return sum(
            len(drawn_places(fault, part, ber, target, seed, trial).tensor)
            for part, target, ber in self._parts(fault)
        )

    def _parts(self, fault: StoredFault) -> Iterator[tuple[int, Target, float]]:
        """The number, target and bit error rate of each part of the fault space that has bits."""
        for part, target in enumerate(self.targets(fault)):
            if target.exposed:
                yield part, target, fault.rates[part][1]

    def _merged(
        self, faults: Sequence[tuple[StoredFault | Replay, int]], trial: int
    ) -> tuple[Target, PendingFlips]:
        """The flips of several faults in coded words or in scales, made together."""
        parts: list[tuple[Target, FlipPlaces]] = []
        for fault, seed in faults:
            if isinstance(fault, Replay):
                target = self.replay_target(fault)
                parts.append((target, listed_places(fault, target)))
                continue
            for part, target, ber in self._parts(fault):
                places = drawn_places(fault, part, ber, target, seed, trial, parts)
                parts.append((target, places))
        merged = self._merged_target(tuple(target for target, _ in parts))
        return merged, merged.flips_of_several(parts)

    def _merged_target(self, targets: tuple[Target, ...]) -> CodedTarget:
        """One target for the tensors of several; the last one is kept for the next trial."""
        if self._last_merged is None or self._last_merged[0] != targets:
            exposed = {each.name: each for target in targets for each in target.exposed}
            self._last_merged = targets, CodedTarget(list(exposed.values()))
        return self._last_merged[1]

    @cached_property
    def is_exact(self) -> bool:
        """Whether any values in the same memory have this plan.

        Memory then holds the stored words themselves, so that no value is ever rounded. Coded words
        depend on the values of a tensor, which determine its range and replacement.
        """
        return not self.encoding.is_coded and not any(
            rounded_to(self.encoding, stored) is not None for stored in self.stored
        )

    def refuse_moved(
        self, model: nn.Module, hit: Iterable[StoredTensor], cause: BaseException | None = None
    ) -> None:
        """ProactError if a tensor that was changed no longer belongs to the model."""
        if self.state.has_same_memory(model):
            return
        now = {
            name: (tensor.data_ptr(), tensor.dtype)
            for name, tensor, _ in named_memories(model)
            if has_plain_memory(tensor)
        }
        for stored in hit:
            if now.get(stored.name) != (stored.tensor.data_ptr(), stored.tensor.dtype):
                raise ProactError(
                    f"{stored.name} was moved, converted or replaced while faults were injected: "
                    "only its former memory was restored"
                ) from cause


def is_roundable(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be rounded in place, each on its own."""
    return has_plain_memory(tensor) and not may_overlap(once(tensor))


def rounded_to(
    encoding: Encoding, stored: StoredTensor, bounds: RoundedBounds | None = None
) -> Tensor | None:
    """The values of a tensor after storing and reading back; ``bounds`` may widen them.

    None if memory holds the stored words themselves or the encoding cannot store the tensor.
    """
    if not is_roundable(stored.tensor):
        return None
    try:
        word = encoding.word(stored)
    except (TypeError, ValueError):
        return None
    rounded = word.rounded(stored.tensor) if bounds is None else bounds.rounded(stored, word)
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
                f"the bit error rate for {short_repr(shown(where))} applies to no stored tensor: "
                "the pattern matches none, or earlier patterns match all of its tensors"
            )
    return parts


def _has_several_parts(faults: Sequence[tuple[StoredFault | Replay, int]]) -> bool:
    """Whether several flips can hit one codeword: the decoder must see them together."""
    return len(faults) > 1 or any(isinstance(fault, BitFlipStratum) for fault, _ in faults)


#: Plans by model. A plan holds detached tensors, so that no entry keeps its key alive.
_CACHED_PLANS: WeakKeyDictionary[nn.Module, dict[Encoding, InjectionPlan]] = WeakKeyDictionary()


def cached_plan(model: nn.Module, encoding: Encoding) -> InjectionPlan | None:
    """The plan that `cache_plan` kept, if the model still stores the same values, else None.

    If the plan holds for any values, it suffices that the tensors are the same. A write
    that bypasses torch's version counters (``.data``, numpy) is not noticed.
    """
    plans = _CACHED_PLANS.get(model)
    plan = None if plans is None else plans.get(encoding)
    if plan is None:
        return None
    if plan.is_exact:
        return plan if plan.state.has_same_memory(model) else None
    return plan if plan.state.has_same_values(model) else None


def cache_plan(model: nn.Module, plan: InjectionPlan) -> None:
    """Keeps a plan for later injections into the same model."""
    _CACHED_PLANS.setdefault(model, {})[plan.encoding] = plan
