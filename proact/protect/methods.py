"""`protect`: one interface to every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from torch import nn

from proact.data.splits import PairOrData, as_data
from proact.faults.stored import stored_tensors
from proact.models.evaluation import check_takes
from proact.nn import without_weight_range
from proact.protect.proact import ProactOptions, proact
from proact.protect.ranger import RangerOptions, ranger
from proact.protect.weight_range import WeightRangeOptions, guarded_like, weight_range


class _Method(NamedTuple):
    run: Callable[..., nn.Module]
    options: type[Any]


_METHODS = {
    "proact": _Method(proact, ProactOptions),
    "ranger": _Method(ranger, RangerOptions),
    "weight-range": _Method(weight_range, WeightRangeOptions),
}


def methods() -> list[str]:
    return list(_METHODS)


def protect(
    model: nn.Module,
    method: str,
    data: PairOrData,
    *,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of ``model`` whose ReLUs are clipped by the method's thresholds; by ``"weight-range"``
    one whose stored values are held in their range.

    The given model keeps every byte. Methods see training and validation images only, and the same
    ones, so that they compare fairly. Weight-range composes with the others, in either order: what
    is applied to a guarded network works without its guard, which then covers thresholds too.

    Args:
        model: a network on the CPU; its modules' ReLUs are found by `proact.nn.find_sites`.
        method: ``"ranger"``, ``"proact"`` or ``"weight-range"``.
        data: what `proact.data.load` returns; or a pair (images, labels) or `Dataset` of training
            images, a fifth of which is held out for validation.
        progress: called with a line of text at each step of the method.
        options: the method's own, such as ``granularity``: the attributes of
            `proact.protect.ranger.RangerOptions`, `proact.protect.proact.ProactOptions` and
            `proact.protect.weight_range.WeightRangeOptions`.

    Returns:
        The protected network in eval mode, thresholds as parameters named ``<site>.threshold``,
        bounds of stored values as buffers ``weight_range.low`` and ``weight_range.high``.

    Raises:
        ValueError: an unknown method, no ReLU (weight-range needs none), no parameters, unsuitable
            data or options.
        TypeError: no network, or an option that the method does not have.
    """
    chosen = check_options(method, options)
    if not isinstance(model, nn.Module):
        raise TypeError(f"protect takes a torch.nn.Module, got {type(model).__name__}")
    if not stored_tensors(model):
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to protect")
    report = progress if progress is not None else _silent
    images = as_data(data)
    check_takes(model, images.train)
    result = _METHODS[method].run(without_weight_range(model), images, chosen, report)
    if method != "weight-range":
        guarded_like(model, result)
    return result.eval()


def check_options(method: str, options: dict[str, Any]) -> Any:
    """The method's options, checked; ValueError or TypeError name what is wrong with them."""
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(f"a method is one of {', '.join(_METHODS)}; got {method!r}")
    known = [field.name for field in fields(_METHODS[method].options)]
    for name in options:
        if name not in known:
            raise TypeError(f"{method} has the options {', '.join(known)}; got {name!r}")
    return _METHODS[method].options(**options)


def _silent(line: str) -> None:
    """Where nobody listens."""
