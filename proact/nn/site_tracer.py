"""Trace one forward pass: which module calls which activation, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from proact.nn.batches import Batch
from proact.nn.call_recorder import ActivationCall, Recording, record_calls
from proact.nn.call_rewriter import activation_positions
from proact.nn.forward import Forward
from proact.nn.live_tracer import TraceError
from proact.nn.site import Site, eval_mode
from proact.nn.skipping import Skip
from proact.text import short_repr


@dataclass(frozen=True)
class TracedSites:
    """The activations that one forward pass calls.

    Attributes:
        sites: those of the chosen kinds, in execution order.
        skipped: the names of the modules that call activations which `skip` leaves alone, one for
            each call.
        other_kinds: the kinds of all other activations.
    """

    sites: tuple[Site, ...]
    skipped: tuple[str, ...]
    other_kinds: frozenset[str]


def trace_sites(
    model: nn.Module, example: Batch, kinds: Collection[str], forward: Forward, skip: Sequence[str]
) -> TracedSites:
    """The sites in execution order; raises the errors that `proact.nn.find_sites` documents."""
    names = {module: name for name, module in model.named_modules()}
    recording = record_calls(model, example, kinds, forward, Skip(model, skip))
    by_caller: dict[nn.Module | None, list[ActivationCall]] = {}
    for call in recording.calls:
        by_caller.setdefault(call.caller, []).append(call)
    sites: dict[ActivationCall, Site] = {}
    times_called = Counter(call.module for call in recording.calls)
    for caller, calls in by_caller.items():
        is_wanted = any(call.is_site for call in calls)
        if is_wanted and caller is not None and recording.runs[caller] > 1:
            raise ValueError(
                f"the module {short_repr(names[caller] or type(model).__name__)} runs more than "
                "once in a forward pass, so its activations cannot have a threshold each: use a "
                f"separate module for each run{_or_skip(names[caller])}"
            )
        forward_sites = _ForwardSites(model, caller, calls, names, times_called, recording)
        sites.update(forward_sites.found())
    return TracedSites(
        tuple(sites[call] for call in recording.calls if call.is_site),
        tuple(names[call.place] for call in recording.calls if call.is_skipped),
        frozenset(
            call.activation.kind
            for call in recording.calls
            if not call.is_site and not call.is_skipped and call.is_batch
        ),
    )


def _or_skip(name: str) -> str:
    return f", or leave it alone with skip=({name!r},)" if name else ""


@dataclass
class _ForwardSites:
    """Finds the sites of the calls in one forward.

    It is enough to replace a module if the model calls it once, or if this forward calls it once
    and it is a direct child; and to replace a function in a plain attribute of the caller if this
    forward calls it once. Otherwise the forward has to be rewritten.
    """

    model: nn.Module
    caller: nn.Module | None
    calls: list[ActivationCall]
    names: dict[nn.Module, str]
    times_called: Counter[nn.Module | None]
    recording: Recording

    def found(self) -> dict[ActivationCall, Site]:
        called_here = Counter(call.module for call in self.calls)
        through = Counter(call.attribute for call in self.calls)
        runs_so_far: Counter[nn.Module | None] = Counter()
        sites: dict[ActivationCall, Site] = {}
        functions: list[ActivationCall] = []
        rewritten: list[ActivationCall] = []
        for call in self.calls:
            run = runs_so_far[call.module]
            runs_so_far[call.module] += 1
            if not call.is_site:
                continue
            if call.module is not None and self.times_called[call.module] == 1:
                everywhere = _names_of(self.model, call.module)
                sites[call] = self._site(call, self.names[call.module], everywhere)
                continue
            places: tuple[str, ...] = ()
            if call.module is not None and self.caller is not None:
                children = _child_names(self.caller, call.module, self.names)
                if called_here[call.module] == 1:
                    places = children
                elif type(self.caller).forward is nn.Sequential.forward:
                    # Children run in their order, so the k-th run belongs to the k-th name.
                    places = (children[run],)
            if places:
                sites[call] = self._site(call, places[0], places)
            elif call.attribute is not None and through[call.attribute] == 1:
                functions.append(call)
            else:
                rewritten.append(call)
        # A rewritten forward would no longer read torch's functions from the attributes.
        inlined = [call for call in functions if rewritten and not call.activation.own]
        for call in functions:
            if call not in inlined:
                assert self.caller is not None
                place = _qualified(self.names[self.caller], str(call.attribute))
                sites[call] = self._site(call, place, (place,))
        order = [call for call in self.calls if call in rewritten or call in inlined]
        if order and self.caller is not None:
            sites.update(self._rewritten(self.caller, order))
        return sites

    def _site(self, call: ActivationCall, name: str, places: tuple[str, ...]) -> Site:
        return Site(
            name, call.shape, call.activation, places, dtype=call.dtype, function=call.function
        )

    def _rewritten(
        self, caller: nn.Module, rewritten: list[ActivationCall]
    ) -> dict[ActivationCall, Site]:
        counted = [call for call in self.calls if not call.activation.own]
        qualified = self.names[caller]
        arguments = self._followed(caller, len(counted), rewritten)
        sites: dict[ActivationCall, Site] = {}
        taken: set[str] = set()
        for call in rewritten:
            stem = (
                _child_names(caller, call.module, self.names)[:1] if call.module is not None else ()
            )
            local = _free_name(
                caller, stem[0].rpartition(".")[2] if stem else call.activation.kind, taken
            )
            name = _qualified(qualified, local)
            sites[call] = Site(
                name,
                call.shape,
                call.activation,
                (name,),
                qualified,
                counted.index(call),
                arguments,
                call.dtype,
            )
        return sites

    def _followed(self, caller: nn.Module, count: int, rewritten: list[ActivationCall]) -> str:
        """The description of arguments with which torch.fx finds ``count`` activation calls."""
        qualified = self.names[caller]
        place = repr(qualified) if qualified else type(caller).__name__
        reason = ""
        own = next((call.activation.own for call in rewritten if call.activation.own), None)
        if own is not None:
            reason = f"{own} is called more than once"
        # Numbers are bound only if they must be, because they may differ from batch to batch.
        for arguments in () if own is not None else self.recording.arguments[caller]:
            try:
                with eval_mode(caller):
                    found = len(activation_positions(caller, arguments, self.model))
            except TraceError as error:
                reason = reason or str(error).strip().partition("\n")[0]
                continue
            if found == count:
                return arguments
            reason = reason or f"{count} calls ran and {found} were found in it"
        raise ValueError(
            f"the activation calls in the forward of {place} cannot be distinguished ({reason}): "
            f"use a separate module for each call{_or_skip(qualified)}"
        )


def _qualified(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def _free_name(caller: nn.Module, stem: str, taken: set[str]) -> str:
    number = 1
    while f"{stem}_{number}" in taken or hasattr(caller, f"{stem}_{number}"):
        number += 1
    taken.add(f"{stem}_{number}")
    return f"{stem}_{number}"


def _names_of(model: nn.Module, module: nn.Module) -> tuple[str, ...]:
    return tuple(n for n, m in model.named_modules(remove_duplicate=False) if m is module)


def _child_names(
    caller: nn.Module, module: nn.Module, names: dict[nn.Module, str]
) -> tuple[str, ...]:
    return tuple(
        _qualified(names[caller], name)
        for name, child in caller._modules.items()
        if child is module
    )
