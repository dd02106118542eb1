"""`protect`: one interface to every method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from proact.data.splits import PairOrData, as_data
from proact.faults.encodings import stored_tensors
from proact.protect.proact import proact
from proact.protect.ranger import ranger

_METHODS: dict[str, Callable[..., nn.Module]] = {"proact": proact, "ranger": ranger}


def methods() -> list[str]:
    return list(_METHODS)


def protect(model: nn.Module, method: str, data: PairOrData, **options: Any) -> nn.Module:
    """A copy of ``model`` whose ReLUs are clipped by the method's thresholds.

    The given model keeps every byte. Methods see training and validation images only, and the same
    ones, so that they compare fairly.

    Args:
        model: a network on the CPU; its modules' ReLUs are found by `proact.nn.find_sites`.
        method: ``"ranger"`` or ``"proact"``.
        data: what `proact.data.load` returns; or a pair (images, labels) or `Dataset` of training
            images, a fifth of which is held out for validation.
        options: the method's own, such as ``granularity``; see `proact.protect.ranger.ranger` and
            `proact.protect.proact.proact`.

    Returns:
        The protected network in eval mode, thresholds as parameters named ``<site>.threshold``.

    Raises:
        ValueError: an unknown method, no ReLU, no parameters, unsuitable data or options.
        TypeError: an option that the method does not have.
    """
    check_options(method, options)
    if not any(True for _ in stored_tensors(model)):
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to protect")
    return _METHODS[method](model, as_data(data), **options).eval()


def check_options(method: str, options: Iterable[str]) -> None:
    """ValueError for an unknown method, TypeError for an option that it does not have."""
    if method not in _METHODS:
        raise ValueError(f"a method is one of {', '.join(_METHODS)}; got {method!r}")
    parameters = inspect.signature(_METHODS[method]).parameters
    known = [name for name in parameters if name not in ("model", "data")]
    for name in options:
        if name not in known:
            raise TypeError(f"{method} has the options {', '.join(known)}; got {name!r}")
