"""Activation sites: find the activation calls of a model, and replace them.

A site is a call of an `nn.ReLU` module (one module can serve many sites), of a function, a method
or an in-place form, of `clamp` at 0, or of a ReLU with a ceiling (ReLU6, hardtanh and clamp from
0). GELU, SiLU and Hardswish are sites on request. Modules and functions in attributes that the
model brings along are recognised by their values. Other activations, and formulas that are written
out in a forward, are not found. Calls that cannot be distinguished raise an error that names them,
so that no ReLU stays unprotected silently. The output of the last layer is not a site.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from proact.nn.activations import (
    Activation,
    FunctionModule,
    activation_of_module,
    checked_kinds,
    name_of,
)
from proact.nn.batches import Batch
from proact.nn.call_rewriter import activation_positions, rewrite_calls
from proact.nn.forward import Forward, ForwardLike, as_forward
from proact.nn.guard_hooks import without_guards
from proact.nn.hyrelu import HyReLU
from proact.nn.model_kinds import refuse_lazy, refuse_opaque
from proact.nn.module_copy import copy_model, copy_sharing_parameters
from proact.nn.site import Site, eval_mode
from proact.nn.site_checks import refuse_irreplaceable
from proact.nn.site_tracer import TracedSites, trace_sites
from proact.nn.stored_guard import StoredGuard
from proact.nn.written_state import restored

_SPELLED = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "hardswish": "Hardswish"}


def find_sites(
    model: nn.Module,
    example: Batch,
    kinds: Sequence[str] = ("relu",),
    forward: ForwardLike = None,
    skip: Sequence[str] = (),
) -> list[Site]:
    """The activation sites of ``model`` in execution order.

    Args:
        model: any model; it runs on ``example`` in eval mode and is left as it was.
        example: a batch: a tensor (samples, ...), or a tuple or mapping of such tensors, which
            enters as ``model(*example)`` or ``model(**example)``. Two samples are enough, and one
            for models that take one.
        kinds: the activations to find: ``"relu"`` (all forms and ceilings), ``"gelu"`` (all forms),
            ``"silu"``, ``"hardswish"``; or the text ``"all"``.
        forward: maps (model, batch) to the output, for models that take their inputs otherwise.
        skip: names of modules, or patterns such as ``"layer4.*"``. Their activations, and those of
            the modules inside them, are no sites.

    Raises:
        ValueError: an unknown kind; a lazy layer without a shape; a TorchScript module; no site; an
            activation in a forward that cannot be traced, or in a module that runs more than once;
            activations that are not finite on the example; an in-place change that the model reads
            elsewhere; a pattern that fits no module.
        TypeError: ``skip`` or ``forward`` of another type.
    """
    return list(traced_sites(model, example, kinds, as_forward(forward), skip).sites)


def traced_sites(
    model: nn.Module, example: Batch, kinds: Sequence[str], forward: Forward, skip: Sequence[str]
) -> TracedSites:
    """`find_sites`, with the calls that are no sites; the same errors."""
    kinds = checked_kinds(kinds)
    refuse_lazy(model)
    refuse_opaque(model, "the search for activations")
    model = without_guards(model)
    with restored(model):
        traced = trace_sites(model, example, kinds, forward, skip)
    if not traced.sites:
        wanted = " or ".join(_SPELLED[kind] for kind in kinds)
        reasons = []
        if traced.skipped:
            reasons.append(f"skip leaves all {len(traced.skipped)} calls alone")
        others = sorted(traced.other_kinds - set(kinds))
        if others:
            found = f"({', '.join(map(repr, others))}{',' if len(others) == 1 else ''})"
            reasons.append(
                f"found {', '.join(others)}, which activations={found} clips (kinds= in find_sites)"
            )
        raise ValueError(
            f"{type(model).__name__} has no {wanted}, so there is no activation to clip"
            f"{'; ' if reasons else ''}{'; '.join(reasons)}"
        )
    refuse_irreplaceable(model, traced.sites, example, forward, partial(_with_neutral_clips, model))
    return traced


def replace_sites(model: nn.Module, replacements: Mapping[Site, nn.Module]) -> nn.Module:
    """A copy of ``model`` in which each site calls its own module; ``model`` is untouched.

    Modules keep their names and tensors, and their classes, or become subclasses of them. Hooks of
    a replaced module are lost. A forward method that has to be rewritten is traced once: parameters
    and buffers are read in each call, values of plain attributes are fixed, and branches on
    ``self.training`` (functional dropout) are those of eval mode.

    Args:
        model: the model in which `find_sites` found the sites.
        replacements: by site, the module that takes its place, such as ``site.clip(threshold)``.
            Its input and output are (samples, ...), with samples of ``site.shape``.

    Raises:
        ValueError: ``model`` has a guard on stored values, which does not cover the new tensors.
        TypeError: ``model`` is not a torch module.
    """
    return place_at_sites(copy_model(model), replacements)


def place_at_sites(model: nn.Module, replacements: Mapping[Site, nn.Module]) -> nn.Module:
    """Changes ``model`` so that each site calls its own module.

    Modules keep their names and tensors, and their classes, or become subclasses of them. Hooks of
    a replaced module are lost. A forward that has to be rewritten is traced once: parameters and
    buffers are read in each call, values of plain attributes are fixed, branches on
    ``self.training`` (functional dropout) are those of eval mode, and ``torch.no_grad`` is lost.

    Returns:
        ``model``, or the replacement if ``model`` itself is the activation.

    Raises:
        ValueError: ``model`` has a guard on stored values, which does not cover the new tensors.
    """
    for guard in (module for module in model.modules() if isinstance(module, StoredGuard)):
        raise ValueError(
            f"{type(model).__name__} has {guard.article} guard, which does not cover the new "
            f"modules' tensors: replace sites in {guard.removal}, and apply {guard.method} last"
        )
    rewritten: dict[str, dict[int, str]] = {}
    arguments: dict[str, str] = {}
    for site in replacements:
        if site.name == "":
            return replacements[site]
        if site.caller is not None:
            local = site.name[len(site.caller) + 1 :] if site.caller else site.name
            rewritten.setdefault(site.caller, {})[site.call] = local
            arguments[site.caller] = site.arguments
    # A rewritten forward calls the modules that it has, and no function of the model's own.
    for site, module in replacements.items():
        if site.activation.own:
            _place(model, site, module)
    with eval_mode(model):
        for caller, calls in rewritten.items():
            module = model.get_submodule(caller)
            positions = activation_positions(module, arguments[caller], model)
            chosen = {positions[call]: name for call, name in calls.items()}
            rewrite_calls(module, arguments[caller], chosen, model)
    for site, module in replacements.items():
        if not site.activation.own:
            _place(model, site, module)
    _keep_off_fused_layers(model, set(replacements.values()))
    return model


def _place(model: nn.Module, site: Site, module: nn.Module) -> None:
    for place in site.places:
        parent, _, child = place.rpartition(".")
        owner = model.get_submodule(parent)
        vars(owner).pop(child, None)  # a function in a plain attribute
        owner.add_module(child, module)


def _keep_off_fused_layers(model: nn.Module, replaced: set[nn.Module]) -> None:
    """Turns off the fused kernels of transformer encoders, which bypass the activation module.

    torch uses them in eval mode for activations that it recognises as ReLU or GELU.
    """
    for module in model.modules():
        is_layer = isinstance(module, nn.TransformerEncoderLayer)
        if is_layer and not replaced.isdisjoint(module.modules()):
            module.activation_relu_or_gelu = 0  # type: ignore[assignment]
        if isinstance(module, nn.TransformerEncoder) and not replaced.isdisjoint(module.modules()):
            module.use_nested_tensor = False


def observed(
    model: nn.Module, sites: Sequence[Site], observe: Callable[[Site, Tensor], None]
) -> nn.Module:
    """A copy of ``model`` that calls ``observe(site, output)`` whenever a site has run.

    The copy computes the same, shares its parameters with ``model``, and has no guards.

    Args:
        model: the model in which `find_sites` found the sites.
        sites: the sites to observe.
        observe: called in each forward pass with the site and its output, (samples, ...).
    """
    model = without_guards(model)
    return place_at_sites(
        copy_sharing_parameters(model),
        {site: _Observer(site, _original(model, site), observe) for site in sites},
    )


class _Observer(nn.Module):
    def __init__(
        self, site: Site, activation: nn.Module, observe: Callable[[Site, Tensor], None]
    ) -> None:
        super().__init__()
        self.site, self.activation, self.observe = site, activation, observe

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.activation(x)
        self.observe(self.site, output)
        return output


def has_activation(model: nn.Module, place: str, activation: Activation) -> bool:
    """Whether the module or function at a place of a site computes ``activation``.

    Functions in plain attributes, and those that the model brings along, are known by their names.
    """
    found = _at(model, place)
    if isinstance(found, nn.Module) and not activation.own:
        return activation_of_module(found) == activation
    if found is None or not activation.own:
        return found is not None
    return name_of(found) == activation.own


def with_own_function(model: nn.Module, site: Site) -> Site:
    """``site`` with the function that only ``model`` has, if its activation is not torch's."""
    found = _at(model, site.places[0]) if site.activation.own else None
    if found is None:
        return site
    function = found if isinstance(found, nn.Module) else FunctionModule(found)
    return replace(site, function=function)


def _at(model: nn.Module, place: str) -> nn.Module | Callable[..., Any] | None:
    """The module, or the function in a plain attribute, at a place of a site."""
    parent, _, child = place.rpartition(".")
    try:
        owner = model.get_submodule(parent)
    except AttributeError:
        return None
    found = owner if place == "" else owner._modules.get(child, vars(owner).get(child))
    return found if callable(found) else None


def _original(model: nn.Module, site: Site) -> nn.Module:
    found = None if site.caller is not None else _at(model, site.places[0])
    return found if isinstance(found, nn.Module) else site.original()


def _with_neutral_clips(
    model: nn.Module, sites: Sequence[Site]
) -> tuple[nn.Module, list[nn.Module]]:
    """A copy of ``model`` with clips that change nothing at ``sites``, and these clips."""
    clips = {site: _neutral(model, site) for site in sites}
    return place_at_sites(copy_sharing_parameters(model), clips), list(clips.values())


def _neutral(model: nn.Module, site: Site) -> nn.Module:
    """A module that returns the same value and never writes to its input."""
    original = _original(model, site)
    if isinstance(original, HyReLU):
        return copy.deepcopy(original)
    return site.clip(torch.full((), math.inf, dtype=site.dtype))
