"""Recognise activations in modules, functions and methods.

ReLU is every function that cuts at 0, with or without a ceiling (ReLU6, clamp, hardtanh). GELU,
SiLU and Hardswish are recognised too; they are sites on request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from proact.nn.hyrelu import ClippedActivation, HyReLU

#: The kinds of activation that can be sites.
KINDS = ("relu", "gelu", "silu", "hardswish")


class Activation(NamedTuple):
    """An activation function.

    Attributes:
        kind: one of `KINDS`.
        ceiling: the largest value of a ReLU: 6 for ReLU6, inf for plain ReLU.
        is_tanh: whether it is the tanh approximation of GELU.
    """

    kind: str
    ceiling: float = math.inf
    is_tanh: bool = False

    def module(self) -> nn.Module:
        """A module that computes the function and never writes to its input."""
        if self.kind == "gelu":
            return nn.GELU("tanh" if self.is_tanh else "none")
        if self.kind == "silu":
            return nn.SiLU()
        if self.kind == "hardswish":
            return nn.Hardswish()
        return nn.ReLU() if math.isinf(self.ceiling) else nn.Hardtanh(0.0, self.ceiling)

    def clip(self, threshold: Tensor | float, mode: str, slope: float) -> HyReLU:
        """A module that computes the function and clips it; the arguments are those of `HyReLU`."""
        if self.kind == "relu":
            return HyReLU(threshold, mode, slope, self.ceiling)
        return ClippedActivation(self.module(), threshold, mode, slope)


RELU = Activation("relu")

# The arguments that hold the bounds of each function or method: position, keyword, default.
_LOW: dict[str, tuple[int, str, Any]] = {
    "clamp": (1, "min", None),
    "clamp_min": (1, "min", None),
    "hardtanh": (1, "min_val", -1.0),
}
_HIGH: dict[str, tuple[int, str, Any]] = {
    "clamp": (2, "max", None),
    "hardtanh": (2, "max_val", 1.0),
}
_RELU6_CEILING = 6.0


_MODULES = {
    nn.ReLU: RELU,
    nn.ReLU6: Activation("relu", _RELU6_CEILING),
    nn.SiLU: Activation("silu"),
    nn.Hardswish: Activation("hardswish"),
}


def activation_of_module(module: nn.Module) -> Activation | None:
    """The activation that ``module`` computes, or None.

    Subclasses of torch's modules give None, because they may compute something else.
    """
    found = _MODULES.get(type(module))
    if type(module) is ClippedActivation:
        found = activation_of_module(module.function)
    elif type(module) is HyReLU:
        found = Activation("relu", module.ceiling)
    elif type(module) is nn.Hardtanh and module.min_val == 0:
        found = Activation("relu", float(module.max_val))
    elif type(module) is nn.Threshold and module.threshold == 0 and module.value == 0:
        found = RELU
    elif type(module) is nn.GELU:
        found = Activation("gelu", is_tanh=module.approximate == "tanh")
    return found


def activation_of_call(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Activation | None:
    """The activation that a call computes, or None.

    Args:
        name: of a torch function, a tensor method or an ATen operator.
        args, kwargs: of the call.
    """
    name = name.strip("_")
    if name == "gelu":
        approximate = args[1] if len(args) > 1 else kwargs.get("approximate", "none")
        return Activation("gelu", is_tanh=approximate == "tanh")
    if name in ("silu", "hardswish"):
        return Activation(name)
    ceiling = _ceiling("clamp" if name == "clip" else name, args, kwargs)
    return None if ceiling is None else Activation("relu", ceiling)


def _ceiling(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """The ceiling of a function that cuts at 0, or None for any other function."""
    if name == "relu":
        return math.inf
    if name == "relu6":
        return _RELU6_CEILING
    if name == "threshold":
        numbers = (*args[1:3], *(kwargs[key] for key in ("threshold", "value") if key in kwargs))
        return math.inf if len(numbers) == 2 and all(_is_zero(n) for n in numbers) else None
    if name not in _LOW or not _is_zero(_argument(_LOW[name], args, kwargs)):
        return None
    high = _argument(_HIGH[name], args, kwargs) if name in _HIGH else None
    if high is None:
        return math.inf
    # A clamp with a computed ceiling is not an activation.
    return float(high) if isinstance(high, (int, float)) else None


def _argument(bound: tuple[int, str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    position, keyword, default = bound
    return args[position] if len(args) > position else kwargs.get(keyword, default)


def _is_zero(value: object) -> bool:
    if isinstance(value, Tensor):
        return not value.any()
    return isinstance(value, (int, float)) and value == 0
