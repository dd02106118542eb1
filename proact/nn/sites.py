"""Activation sites: find the activation calls of a model, and replace them.

A site is a call of an `nn.ReLU` module (one module can serve many sites), of a function, a method
or an in-place form, of `clamp` at 0, or of a ReLU with a ceiling (ReLU6, hardtanh and clamp from
0). GELU, SiLU and Hardswish are sites on request. Other activations, and ReLU written as a product
or maximum, are not found. Calls that cannot be distinguished raise an error that names them, so
that no ReLU stays unprotected silently. The output of the last layer is not a site.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from proact.nn.activations import KINDS, activation_of_module
from proact.nn.call_rewriter import activation_positions, rewrite_calls
from proact.nn.forward import logits_of
from proact.nn.guard_hooks import without_weight_range
from proact.nn.hyrelu import HyReLU
from proact.nn.model_kinds import refuse_lazy, refuse_opaque
from proact.nn.module_copy import copy_model, copy_sharing_parameters
from proact.nn.site import Site, eval_mode
from proact.nn.site_tracer import trace_sites
from proact.nn.weight_range import WeightRange

_SPELLED = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "hardswish": "Hardswish"}


def find_sites(model: nn.Module, example: Tensor, kinds: Sequence[str] = ("relu",)) -> list[Site]:
    """The activation sites of ``model`` in execution order.

    Args:
        model: any model; it runs on ``example`` in eval mode and is left as it was.
        example: an input batch, (samples, ...); one sample is enough.
        kinds: the activations to find: ``"relu"`` (all forms and ceilings), ``"gelu"``, ``"silu"``,
            ``"hardswish"``.

    Raises:
        ValueError: an unknown kind; a lazy layer without a shape; a TorchScript module; no site; an
            activation in a forward that cannot be traced, or in a module that runs more than once;
            activations that are not finite on the example; an in-place change that the model reads
            elsewhere.
    """
    check_kinds(kinds)
    refuse_lazy(model)
    refuse_opaque(model, "the search for activations")
    model = without_weight_range(model)
    sites = trace_sites(model, example, kinds)
    if not sites:
        wanted = " or ".join(_SPELLED[kind] for kind in kinds)
        others = {
            found.kind for found in map(activation_of_module, model.modules()) if found is not None
        }
        found = f"; found {', '.join(sorted(others))}" if others - set(kinds) else ""
        raise ValueError(
            f"{type(model).__name__} has no {wanted}, so there is no activation to clip{found}"
        )
    _refuse_irreplaceable(model, sites, example)
    return sites


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises ValueError unless ``kinds`` is a filled tuple or list of known kinds."""
    listed = isinstance(kinds, (tuple, list)) and len(kinds) > 0
    if not listed or any(kind not in KINDS for kind in kinds):
        known = ", ".join(KINDS)
        raise ValueError(f"activations is a tuple of {known}, such as ('relu',); got {kinds!r}")


def replace_sites(model: nn.Module, replacements: Mapping[Site, nn.Module]) -> nn.Module:
    """A copy of ``model`` in which each site calls its own module; ``model`` is untouched.

    `place_at_sites` on a copy, with the same errors.
    """
    return place_at_sites(copy_model(model), replacements)


def place_at_sites(model: nn.Module, replacements: Mapping[Site, nn.Module]) -> nn.Module:
    """Changes ``model`` so that each site calls its own module.

    Modules keep their names and tensors, and their classes, or become subclasses of them. Hooks of
    a replaced module are lost. A forward that has to be rewritten is traced once: values that it
    reads from plain attributes are fixed, branches on ``self.training`` (functional dropout) are
    those of eval mode, and ``torch.no_grad`` inside it is lost.

    Returns:
        ``model``, or the replacement if ``model`` itself is the activation.

    Raises:
        ValueError: ``model`` has a weight-range guard, which has no bounds for the new tensors.
    """
    if any(isinstance(module, WeightRange) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has a weight-range guard, which has no bounds for the new "
            "modules' tensors: replace sites in proact.nn.without_weight_range(model), and apply "
            "weight-range last"
        )
    rewritten: dict[str, dict[int, str]] = {}
    for site in replacements:
        if site.name == "":
            return replacements[site]
        if site.caller is not None:
            local = site.name[len(site.caller) + 1 :] if site.caller else site.name
            rewritten.setdefault(site.caller, {})[site.call] = local
    with eval_mode(model):
        for caller, calls in rewritten.items():
            module = model.get_submodule(caller)
            positions = activation_positions(module)
            rewrite_calls(module, {positions[call]: name for call, name in calls.items()})
    for site, module in replacements.items():
        for place in site.places:
            parent, _, child = place.rpartition(".")
            model.get_submodule(parent).add_module(child, module)
    _keep_off_fused_layers(model, set(replacements.values()))
    return model


def _keep_off_fused_layers(model: nn.Module, replaced: set[nn.Module]) -> None:
    """Turns off the fused kernel of encoder layers, which bypasses the activation module.

    torch uses it in eval mode for activations that it recognises as ReLU or GELU.
    """
    for module in model.modules():
        is_encoder = isinstance(module, nn.TransformerEncoderLayer)
        if is_encoder and not replaced.isdisjoint(module.modules()):
            module.activation_relu_or_gelu = 0  # type: ignore[assignment]


def observed(
    model: nn.Module, sites: list[Site], observe: Callable[[Site, Tensor], None]
) -> nn.Module:
    """A copy of ``model`` that calls ``observe(site, output)`` whenever a site has run.

    The copy computes the same, shares its parameters with ``model``, and has no weight-range guard.
    """
    model = without_weight_range(model)
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


def _original(model: nn.Module, site: Site) -> nn.Module:
    if site.caller is None:
        return model.get_submodule(site.places[0])
    return site.activation.module()


def _refuse_irreplaceable(model: nn.Module, sites: list[Site], example: Tensor) -> None:
    """Raises ValueError if clips with an infinite threshold change the output.

    They do if the model reads the input that an in-place ReLU has changed, or if a forward was not
    traced faithfully.
    """
    expected = _outputs(model, example)
    dtype = example.dtype if example.is_floating_point() else torch.get_default_dtype()

    def changes_the_output(replaced: list[Site]) -> bool:
        clips = {site: _neutral(model, site, dtype) for site in replaced}
        runs: Counter[nn.Module] = Counter()
        copied = place_at_sites(copy_sharing_parameters(model), clips)
        with ExitStack() as hooks:
            for clip in clips.values():
                hooks.callback(clip.register_forward_hook(lambda m, _, __: runs.update([m])).remove)
            try:
                given = _outputs(copied, example)
            except Exception as error:
                names = ", ".join(site.name for site in replaced)
                raise ValueError(
                    f"a forward with the activations {names} cannot be traced ({error}): use a "
                    "separate module for each call"
                ) from error
        if any(runs[clip] != 1 for clip in clips.values()):
            return True
        return len(given) != len(expected) or not all(map(_same_bits, given, expected))

    if changes_the_output(sites):
        culprit = next((site for site in sites if changes_the_output([site])), sites[0])
        raise ValueError(
            f"the activation {culprit.name!r} cannot be replaced, because a replacement changes "
            "the model's output: possible reasons are an in-place change that is read elsewhere, "
            "a hook that changes the activation, and a forward that draws at random"
        )


def _neutral(model: nn.Module, site: Site, dtype: torch.dtype) -> nn.Module:
    """A module that returns the same value and never writes to its input."""
    original = _original(model, site)
    if isinstance(original, HyReLU):
        return copy.deepcopy(original)
    return site.clip(torch.full((), math.inf, dtype=dtype))


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    with eval_mode(model), torch.no_grad():
        output = model(example.clone())
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return tensors or [logits_of(output)]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    def bits(tensor: Tensor) -> Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))
