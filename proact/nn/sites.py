"""Activation sites: where a network applies ReLU, in the order in which it does so.

A site is a call. So far a site must be the one call of an `nn.ReLU` module; any other ReLU that
the forward pass makes (functional, a module called twice, ReLU6) is an error that names it, so that
no activation stays unprotected without a word. The network's output has no site: what the last
layer computes is not clipped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from proact.nn.hyrelu import HyReLU

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
            that calls it; an `nn.ReLU` module that runs more than once.
    """
    calls: list[Site] = []
    elsewhere: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    running: list[nn.Module] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()
        if isinstance(module, _RELU_MODULES):
            calls.append(Site(names[module], tuple(output.shape[1:])))

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if _is_relu(func, args) and not isinstance(running[-1], _RELU_MODULES):
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
    _refuse_repeated(calls)
    if not calls:
        raise ValueError(f"{type(model).__name__} has no ReLU: there is no activation to clip")
    return calls


def replace_sites(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of ``model`` with the modules of the named sites replaced; ``model`` is untouched."""
    result = copy.deepcopy(model)
    for name, module in replacements.items():
        parent, _, child = name.rpartition(".")
        if not child:
            return module
        setattr(result.get_submodule(parent), child, module)
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
