"""Recognise activations in modules, functions and methods.

ReLU is every function that cuts at 0, with or without a ceiling (ReLU6, clamp, hardtanh). GELU,
SiLU and Hardswish are recognised too; they are sites on request. Modules and functions that a model
brings along (Hugging Face's ``gelu_new``, a hand-written Swish) are recognised by their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.nn.hyrelu import ClippedActivation, HyReLU
from proact.text import label, short_repr

#: The kinds of activation that can be sites.
KINDS = ("relu", "gelu", "silu", "hardswish")
#: Stands for all of `KINDS`.
ALL_KINDS = "all"


def checked_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds that ``kinds`` names: a tuple or list of known kinds, or ``"all"``.

    Raises:
        ValueError: anything else.
    """
    if kinds == ALL_KINDS or (isinstance(kinds, (tuple, list)) and list(kinds) == [ALL_KINDS]):
        return KINDS
    listed = isinstance(kinds, (tuple, list)) and len(kinds) > 0
    if not listed or any(kind not in KINDS for kind in kinds):
        known = ", ".join(KINDS)
        raise ValueError(
            f"activations is a tuple of {known}, such as ('relu',), or 'all'; got "
            f"{short_repr(kinds)}"
        )
    return tuple(kinds)


class Activation(NamedTuple):
    """An activation function.

    Attributes:
        kind: one of `KINDS`.
        ceiling: the largest value of a ReLU: 6 for ReLU6, inf for plain ReLU.
        is_tanh: whether it is the tanh approximation of GELU.
        own: the qualified name of the class or function if the model brings its own; "" for those
            of torch.
    """

    kind: str
    ceiling: float = math.inf
    is_tanh: bool = False
    own: str = ""

    def module(self) -> nn.Module:
        """A module of torch that computes the function and never writes to its input.

        Raises:
            ValueError: only the model itself has the function.
        """
        if self.own:
            raise ValueError(f"{label(self.own)} is not a function of torch")
        if self.kind == "gelu":
            return nn.GELU("tanh" if self.is_tanh else "none")
        if self.kind == "silu":
            return nn.SiLU()
        if self.kind == "hardswish":
            return nn.Hardswish()
        return nn.ReLU() if math.isinf(self.ceiling) else nn.Hardtanh(0.0, self.ceiling)

    def clip(
        self,
        threshold: Tensor | float,
        mode: str,
        slope: float,
        function: nn.Module | None = None,
    ) -> HyReLU:
        """A module that computes the function and clips it.

        Args:
            threshold, mode, slope: as for `HyReLU`.
            function: the model's own module that computes the function, if it is not of torch.
        """
        if self.kind == "relu" and function is None and not self.own:
            return HyReLU(threshold, mode, slope, self.ceiling)
        return ClippedActivation(function or self.module(), threshold, mode, slope, self.kind)


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
        if found is None and module.kind:
            found = Activation(module.kind, own=name_of(module.function))
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


class FunctionModule(nn.Module):
    """A module that calls a function; it stands in for a function in a plain attribute."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def name_of(function: object) -> str:
    """The qualified name of a function, or of the class of a module."""
    if isinstance(function, FunctionModule):
        function = function.function
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


#: The functions that values are compared with, by kind.
_BY_VALUE: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("relu", torch.relu),
    ("gelu", F.gelu),
    ("gelu", _quick_gelu),
    ("silu", F.silu),
    ("hardswish", F.hardswish),
)
#: How far values may be from a function, absolutely and relatively: the forms of GELU differ by
#: 5e-4, halves by their rounding.
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
_CLOSE_HALF = 2e-2
#: The interval on which functions are compared, and the least number of points in it.
_COMPARED, _POINTS = (-4.0, 4.0), 256


def telling_inputs(like: Tensor) -> list[Tensor]:
    """Tensors like ``like``, which together hold numbers on which activations differ."""
    count = -(-_POINTS // like.numel())
    numbers = torch.linspace(*_COMPARED, count * like.numel(), device=like.device)
    return list(numbers.reshape(count, *like.shape).to(like.dtype))


def kinds_of_values(x: Tensor, output: object) -> list[str]:
    """The kinds of the activations that map ``x`` to ``output``, up to the rounding of formulas."""
    if not isinstance(output, Tensor) or output.shape != x.shape or output.dtype != x.dtype:
        return []
    if not x.is_floating_point() or x.dim() == 0 or x.numel() == 0:
        return []
    close = _CLOSE.get(x.dtype, _CLOSE_HALF)
    wide, given = x.detach().double(), output.detach().double()
    return [
        kind
        for kind, function in _BY_VALUE
        if torch.allclose(given, function(wide), rtol=close, atol=close)
    ]


def _argument(bound: tuple[int, str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    position, keyword, default = bound
    return args[position] if len(args) > position else kwargs.get(keyword, default)


def _is_zero(value: object) -> bool:
    if isinstance(value, Tensor):
        return not value.any()
    return isinstance(value, (int, float)) and value == 0
