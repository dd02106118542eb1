"""`protect`, the interface to all protection methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from proact.data import Data
from proact.data.dataset import SamplesOrData, as_data
from proact.encodings import Encoding
from proact.errors import unknown
from proact.models.evaluation import check_takes
from proact.nn import Site
from proact.nn.guard_hooks import unguarded_copy
from proact.nn.model_kinds import refuse_opaque
from proact.nn.sites import place_at_sites
from proact.nn.tensor_inventory import stored_tensors
from proact.protect.checkpointing import MethodRun
from proact.protect.fingerprint import fingerprint, full_fingerprint
from proact.protect.method import ClipMethod, GuardMethod
from proact.protect.options import TrainedOptions
from proact.protect.registry import METHODS
from proact.protect.serialization import Protection, attach, protection_of
from proact.protect.weight_range import copy_guard


def methods() -> list[str]:
    """The names of all methods."""
    return list(METHODS)


def trained_methods() -> list[str]:
    """The names of the methods that train a soft clip and harden it at the end."""
    return [name for name in METHODS if issubclass(_method(name).options, TrainedOptions)]


def resumable_methods() -> list[str]:
    """The names of the methods that can be resumed: they go from site to site."""
    return [name for name in METHODS if _resumes(_method(name))]


def _method(name: str) -> ClipMethod | GuardMethod:
    """Loads the module of a method."""
    method: ClipMethod | GuardMethod = import_module(f"proact.protect.{METHODS[name]}").METHOD
    return method


def _resumes(method: ClipMethod | GuardMethod) -> bool:
    return isinstance(method, ClipMethod) and method.resumes


def protect(
    model: nn.Module,
    method: str,
    data: SamplesOrData,
    *,
    progress: Callable[[str], None] | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Protects a copy of ``model`` by one method and returns it; ``model`` is untouched.

    Methods clip activations at thresholds that they choose; ``"weight-range"`` keeps stored values
    in their range instead. All methods use the same training and validation images and no test
    images, so that they compare fairly. Weight-range composes with the other methods in either
    order: the other method works without the guard, which then covers the new thresholds too. If
    activations are clipped already, the method profiles the model with these clips and replaces
    them by its own.

    Args:
        model: a model on the CPU; `proact.nn.find_sites` finds its activations.
        method: one of `methods`.
        data: the result of `proact.data.load`; or a pair (images, labels) or a `Dataset` of
            training images, and a fifth of them is held out for validation.
        progress: called with a line of text at each step of the method. Methods that go from site
            to site estimate the time left.
        resume: a safetensors file for the thresholds of finished sites, for the methods in
            `resumable_methods`. If it exists, the method continues with the next site and ends in
            the same thresholds. It is deleted at the end.
        options: the options of the method, such as ``granularity``: the attributes of
            `proact.protect.ranger.RangerOptions`, `proact.protect.ft_clipact.FtClipactOptions`,
            `proact.protect.fitact.FitactOptions`, `proact.protect.proact.ProactOptions`,
            `proact.protect.resilience.ResilienceAwareOptions` and
            `proact.protect.weight_range.WeightRangeOptions`.

    Returns:
        The protected model in eval mode. Thresholds are parameters named ``<site>.threshold``;
        the bounds of weight-range are the buffers ``weight_range.low`` and ``weight_range.high``.

    Raises:
        ValueError: an unknown method, a model without parameters or (except for weight-range)
            without activations, unsuitable data or options.
        TypeError: ``model`` is not a torch module, or the method lacks an option.
        ProactError: ``resume`` belongs to another run, or cannot be written.
    """
    chosen = check_options(method, options)
    found = _method(method)
    if resume is not None and not _resumes(found):
        able = ", ".join(resumable_methods())
        raise ValueError(f"resume is for the methods {able}; got {method!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"protect takes a torch.nn.Module, got {type(model).__name__}")
    if not stored_tensors(model):
        raise ValueError(f"{type(model).__name__} has no parameters to protect")
    refuse_opaque(model, "protection")
    images = as_data(data)
    check_takes(model, images.train)
    check_takes(model, images.validation)
    before = protection_of(model)
    network = fingerprint(model)
    if isinstance(found, GuardMethod):
        result = found.run(unguarded_copy(model), chosen, progress or _ignore)
        sites = before.sites if before is not None else ()
    else:
        file = None if resume is None else Path(resume)
        working = unguarded_copy(model)
        identity = "" if file is None else _identity(method, chosen, working, images)
        with MethodRun(progress or _ignore, identity, file) as run:
            clips = found.run(working, images, chosen, run)
        result = place_at_sites(unguarded_copy(model), clips)
        copy_guard(model, result)
        sites = _merged(before.sites if before is not None else (), clips)
    applied = (*(before.applied if before is not None else ()), (method, _as_json(chosen)))
    attach(result, Protection(applied, sites, network))
    return result.eval()


def _merged(before: Iterable[Site], now: Iterable[Site]) -> tuple[Site, ...]:
    """The sites of all clips.

    If a clip replaced another clip, the site is that of the first one, in the unprotected model.
    """
    merged = {site.name: site for site in now}
    return tuple((merged | {site.name: site for site in before}).values())


def check_options(method: str, options: dict[str, Any]) -> Any:
    """The options of a method as its dataclass.

    Raises:
        ValueError: an unknown method, or an invalid value.
        TypeError: an option that the method does not have, or a value of the wrong type.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise unknown("method", method, METHODS)
    kind = _method(method).options
    known = [field.name for field in fields(kind)]
    for name in options:
        if name not in known:
            raise TypeError(f"{method} has the options {', '.join(known)}; got {name!r}")
    return kind(**options)


def _identity(method: str, options: Any, model: nn.Module, images: Data) -> str:
    """A digest of everything that determines the thresholds."""
    facts = {
        "method": method,
        "options": _as_json(options),
        "network": full_fingerprint(model),
        "modules": [f"{name} {type(m).__qualname__}" for name, m in model.named_modules()],
        "images": [images.train.digest, images.validation.digest],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _as_json(options: Any) -> dict[str, Any]:
    """The options as JSON returns them, with encodings by name."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options), default=_named))
    return plain


def _named(option: Any) -> str:
    return option.name if isinstance(option, Encoding) else str(option)


def _ignore(line: str) -> None:
    """Discards a line of progress."""
