"""Trace one forward pass: which module calls which activation, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from proact.nn.activations import Activation, activation_of_call, activation_of_module
from proact.nn.call_rewriter import TraceError, activation_positions
from proact.nn.site import Site, eval_mode


@dataclass(eq=False)
class _ActivationCall:
    """A call of an activation module, or of a function if ``module`` is None."""

    caller: nn.Module | None
    module: nn.Module | None
    shape: tuple[int, ...]
    activation: Activation
    is_site: bool = True  # false for other kinds, and for clamped indices and scalars


@dataclass
class _Recording:
    calls: list[_ActivationCall] = field(default_factory=list)
    runs: Counter[nn.Module] = field(default_factory=Counter)


def trace_sites(model: nn.Module, example: Tensor, kinds: Collection[str]) -> list[Site]:
    """The sites in execution order; raises the errors that `proact.nn.find_sites` documents."""
    names = {module: name for name, module in model.named_modules()}
    recording = _record(model, example, names, kinds)
    by_caller: dict[nn.Module | None, list[_ActivationCall]] = {}
    for call in recording.calls:
        by_caller.setdefault(call.caller, []).append(call)
    sites: dict[_ActivationCall, Site] = {}
    times_called = Counter(call.module for call in recording.calls)
    for caller, calls in by_caller.items():
        is_wanted = any(call.is_site for call in calls)
        if is_wanted and caller is not None and recording.runs[caller] > 1:
            raise ValueError(
                f"the module {names[caller] or type(model).__name__!r} runs more than once in a "
                "forward pass, so its activations cannot have a threshold each: use a separate "
                "module for each run"
            )
        sites.update(_sites_in_forward(model, caller, calls, names, times_called))
    return [sites[call] for call in recording.calls if call.is_site]


def _record(
    model: nn.Module, example: Tensor, names: dict[nn.Module, str], kinds: Collection[str]
) -> _Recording:
    recording = _Recording()
    running: list[nn.Module] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        recording.runs[module] += 1
        running.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()
        found = activation_of_module(module)
        if found is not None:
            caller = running[-1] if running else None
            note(_ActivationCall(caller, module, tuple(output.shape[1:]), found), output)

    def note(call: _ActivationCall, output: Tensor) -> None:
        recording.calls.append(call)
        is_batch = output.is_floating_point() and output.dim() > 0
        call.is_site = is_batch and call.activation.kind in kinds
        if call.is_site and not torch.isfinite(output).all():
            place = call.module or call.caller
            assert place is not None
            raise ValueError(
                f"the activations at {names[place]!r} are not finite on the example: check the "
                "model's parameters and the range of the input"
            )

    class _CallRecorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            output = func(*args, **(kwargs or {}))
            found = activation_of_call(func.overloadpacket.__name__, args, kwargs or {})
            # No module is running while a hook of the whole model does.
            if found is not None and running and activation_of_module(running[-1]) is None:
                note(_ActivationCall(running[-1], None, tuple(output.shape[1:]), found), output)
            return output

    with eval_mode(model), torch.no_grad(), ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        with _CallRecorder():  # type: ignore[no-untyped-call]
            model(example.clone())
    return recording


def _sites_in_forward(
    model: nn.Module,
    caller: nn.Module | None,
    calls: list[_ActivationCall],
    names: dict[nn.Module, str],
    times_called: Counter[nn.Module | None],
) -> dict[_ActivationCall, Site]:
    """The sites of the calls in one forward.

    It is enough to replace a module if the model calls it once, or if this forward calls it once
    and it is a direct child. Otherwise the forward has to be rewritten.
    """
    called_here = Counter(call.module for call in calls)
    runs_so_far: Counter[nn.Module | None] = Counter()
    sites: dict[_ActivationCall, Site] = {}
    rewritten: list[tuple[int, _ActivationCall]] = []
    for number, call in enumerate(calls):
        run = runs_so_far[call.module]
        runs_so_far[call.module] += 1
        if not call.is_site:
            continue
        if call.module is not None and times_called[call.module] == 1:
            everywhere = _names_of(model, call.module)
            sites[call] = Site(names[call.module], call.shape, call.activation, everywhere)
            continue
        places: tuple[str, ...] = ()
        if call.module is not None and caller is not None:
            children = _child_names(caller, call.module, names)
            if called_here[call.module] == 1:
                places = children
            elif type(caller).forward is nn.Sequential.forward:
                # Children run in their order, so the k-th run belongs to the k-th name.
                places = (children[run],)
        if places:
            sites[call] = Site(places[0], call.shape, call.activation, places)
        else:
            rewritten.append((number, call))
    if rewritten and caller is not None:
        sites.update(_rewritten_sites(caller, calls, rewritten, names))
    return sites


def _rewritten_sites(
    caller: nn.Module,
    calls: list[_ActivationCall],
    rewritten: list[tuple[int, _ActivationCall]],
    names: dict[nn.Module, str],
) -> dict[_ActivationCall, Site]:
    qualified = names[caller]
    place = repr(qualified) if qualified else type(caller).__name__
    try:
        with eval_mode(caller):
            found = len(activation_positions(caller))
        reason = f"{len(calls)} calls ran and {found} were found in it"
    except TraceError as error:
        found, reason = -1, str(error).strip().partition("\n")[0]
    if found != len(calls):
        raise ValueError(
            f"the activation calls in the forward of {place} cannot be distinguished ({reason}): "
            "use a separate module for each call"
        )
    sites: dict[_ActivationCall, Site] = {}
    taken: set[str] = set()
    for number, call in rewritten:
        stem = _child_names(caller, call.module, names)[:1] if call.module is not None else ()
        local = _free_name(
            caller, stem[0].rpartition(".")[2] if stem else call.activation.kind, taken
        )
        name = f"{qualified}.{local}" if qualified else local
        sites[call] = Site(name, call.shape, call.activation, (name,), qualified, number)
    return sites


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
    prefix = f"{names[caller]}." if names[caller] else ""
    return tuple(f"{prefix}{name}" for name, child in caller._modules.items() if child is module)
