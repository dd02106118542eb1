"""Activation sites: where a network applies ReLU, in the order in which it does so.

A site is a call. So far a site must be the one call of an `nn.ReLU` module. A call of relu, relu6,
hardtanh, threshold or clamp at 0 anywhere else, and a module called twice, are errors that name the
place, so that no ReLU stays unprotected without a word. Other activations (GELU, SiLU, ReLU spelled
as a product or maximum) are not looked for yet. The network's output has no site: what the last
layer computes is not clipped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from proact.nn.hyrelu import HyReLU

# Not their subclasses: those may compute something else.
_RELU_MODULES = (nn.ReLU, HyReLU)
_RELU_CALLS = {
    "relu",
    "relu_",
    "clamp",
    "clamp_",
    "clamp_min",
    "clamp_min_",
    "hardtanh",
    "hardtanh_",
    "threshold",
    "relu6",
}


@dataclass(frozen=True)
class Site:
    """One activation call: the qualified name of its module and the shape of one sample there."""

    name: str
    shape: tuple[int, ...]

    @property
    def neurons(self) -> int:
        return torch.Size(self.shape).numel()


def find_sites(model: nn.Module, example: Tensor) -> list[Site]:
    """The activation sites of ``model`` in execution order.

    Args:
        model: any network; it runs once on ``example`` in eval mode and is left as it was.
        example: an input batch, (samples, ...); one sample is enough.

    Raises:
        ValueError: no site; a ReLU that is not an `nn.ReLU` module of its own, named by the module
            that calls it; an `nn.ReLU` module that runs more than once, whose output on the example
            is not finite, or whose in-place change the network reads elsewhere.
    """
    calls: list[Site] = []
    elsewhere: list[str] = []
    broken: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    running: list[nn.Module] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()
        if type(module) in _RELU_MODULES:
            calls.append(Site(names[module], tuple(output.shape[1:])))
            if not torch.isfinite(output).all():
                broken.append(names[module])

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if _is_relu(func, args) and type(running[-1]) not in _RELU_MODULES:
                elsewhere.append(names[running[-1]] or type(model).__name__)
            return func(*args, **(kwargs or {}))

    with evaluating(model), torch.no_grad(), ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        with Watch():  # type: ignore[no-untyped-call]
            model(example)

    if elsewhere:
        raise ValueError(
            f"the ReLU called inside {elsewhere[0]!r} is not an nn.ReLU module of its own, which "
            "is what can be protected so far: replace the functional call by an nn.ReLU module"
        )
    if broken:
        raise ValueError(
            f"the activations at {broken[0]!r} are not finite on the example: the network is "
            "broken or its input out of range"
        )
    _refuse_repeated(calls)
    if not calls:
        raise ValueError(f"{type(model).__name__} has no ReLU: there is no activation to clip")
    _refuse_irreplaceable(model, calls, example)
    return calls


def replace_sites(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of ``model`` with the modules of the named sites replaced; ``model`` is untouched.

    A module that is known by several names is replaced under each of them.
    """
    result = copy.deepcopy(model)
    replaced = {result.get_submodule(name): module for name, module in replacements.items()}
    if result in replaced:
        return replaced[result]
    for parent in list(result.modules()):
        for name, child in list(parent._modules.items()):
            if child in replaced:
                setattr(parent, name, replaced[child])
    return result


def record_sites(
    model: nn.Module, sites: list[Site], observe: Callable[[Site, Tensor], None]
) -> ExitStack:
    """A context in which ``observe(site, output)`` runs whenever a site has run."""

    def hook(site: Site) -> Callable[[nn.Module, Any, Tensor], None]:
        def forward_hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            observe(site, output)

        return forward_hook

    stack = ExitStack()
    for site in sites:
        stack.callback(model.get_submodule(site.name).register_forward_hook(hook(site)).remove)
    return stack


def _is_relu(func: Any, args: tuple[Any, ...]) -> bool:
    name = func.overloadpacket.__name__
    if name not in _RELU_CALLS:
        return False
    if name.startswith("clamp"):
        return len(args) > 1 and isinstance(args[1], (int, float)) and args[1] == 0
    return True


def _refuse_irreplaceable(model: nn.Module, sites: list[Site], example: Tensor) -> None:
    """A clip that never bites must change nothing. It does where a network relies on an in-place
    ReLU having changed its input."""
    expected = _output_bits(model, example)

    def changes_the_output(replaced: list[Site]) -> bool:
        clips = {
            site.name: HyReLU(torch.full((), math.inf, dtype=example.dtype), "zero")
            for site in replaced
        }
        return _output_bits(replace_sites(model, clips), example) != expected

    if changes_the_output(sites):
        culprit = next((site for site in sites if changes_the_output([site])), sites[0])
        raise ValueError(
            f"the network uses the ReLU {culprit.name!r} for more than the value it returns "
            "(an in-place change that is read elsewhere?), so it cannot be replaced"
        )


def _output_bits(model: nn.Module, example: Tensor) -> list[bytes]:
    with evaluating(model), torch.no_grad():
        leaves = tree_leaves(model(example.clone()))
    return [
        leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for leaf in leaves
        if isinstance(leaf, Tensor)
    ]


def _refuse_repeated(calls: list[Site]) -> None:
    seen: set[str] = set()
    for site in calls:
        if site.name in seen:
            raise ValueError(
                f"the module {site.name!r} runs more than once in a forward pass, and one "
                "threshold cannot serve two sites: give each call an nn.ReLU module of its own"
            )
        seen.add(site.name)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; each module's own mode outside, also where they differ."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
