"""What counts as a ReLU: modules, functions and methods that cut at 0, with or without ceiling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from proact.nn.hyrelu import HyReLU

# Where each function's and method's bounds stand: position, keyword, default.
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


def module_ceiling(module: nn.Module) -> float | None:
    """Where the module's ReLU stops growing (inf for plain ReLU); None if it is no ReLU.

    Subclasses are none: they may compute something else.
    """
    if type(module) is nn.ReLU:
        return math.inf
    if type(module) is HyReLU:
        return module.ceiling
    if type(module) is nn.ReLU6:
        return _RELU6_CEILING
    if type(module) is nn.Hardtanh and module.min_val == 0:
        return float(module.max_val)
    if type(module) is nn.Threshold and module.threshold == 0 and module.value == 0:
        return math.inf
    return None


def call_ceiling(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """The same for a call of a torch function, method or ATen operator of that name."""
    name = name.strip("_")
    name = "clamp" if name == "clip" else name
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
    # A ceiling that is computed is a clamp of some other kind.
    return float(high) if isinstance(high, (int, float)) else None


def _argument(place: tuple[int, str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    position, keyword, default = place
    return args[position] if len(args) > position else kwargs.get(keyword, default)


def _is_zero(value: object) -> bool:
    if isinstance(value, Tensor):
        return not value.any()
    return isinstance(value, (int, float)) and value == 0
