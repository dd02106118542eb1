"""Save a protection to a safetensors file, and load it onto the unprotected model.

A file may come from anywhere: its digest, header and tensors are checked before a model is made.

The metadata key ``proact.protection`` holds a JSON header: the version of the format, the applied
methods with their options, each site with its activation and clip, and the fingerprint of the
model. Tensors have their names in the protected model (``<site>.threshold``, ``weight_range.low``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proact.models import checkpoint
from proact.nn import HyReLU, Site, error_correction_of, replace_sites, weight_range_of
from proact.nn.guard_hooks import guards_on
from proact.nn.live_tracer import TraceError
from proact.nn.model_kinds import checked_module
from proact.nn.module_copy import copy_model
from proact.nn.sites import has_activation, with_own_function
from proact.protect.clips import threshold_problem
from proact.protect.ecc import add_ecc
from proact.protect.fingerprint import fingerprint
from proact.protect.saved_header import FORMAT, SavedHeader, checked_header, damaged
from proact.protect.weight_range import add_guard
from proact.text import short_repr, shortened

_HEADER = "proact.protection"
_ATTRIBUTE = "proact_protection"
_GUARD_TENSORS = ("weight_range.low", "weight_range.high", "error_correction.replacements")
#: More than the thresholds of every neuron of a network for large images.
_MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class Protection:
    """The methods that were applied to a model. It is an attribute of the model, so copies keep it.

    Attributes:
        applied: the name and the options (as JSON) of each method, in the order of application.
        sites: the sites of the clips; those of one method are in execution order.
        fingerprint: of the model without protection.
        skipped: the name of the calling module of each activation that ``skip=`` left alone.
        coded: the fingerprint after ecc has written check bits; "" for ``fingerprint``.
    """

    applied: tuple[tuple[str, dict[str, Any]], ...]
    sites: tuple[Site, ...]
    fingerprint: str
    skipped: tuple[str, ...] = ()
    coded: str = ""

    @property
    def current(self) -> str:
        """The fingerprint of the protected model."""
        return self.coded or self.fingerprint


def protection_of(model: nn.Module) -> Protection | None:
    """The `Protection` of ``model``, or None if `proact.protect.protect` did not make it.

    Raises:
        TypeError: ``model`` is not a torch module.
    """
    return getattr(checked_module(model), _ATTRIBUTE, None)


def unprotected_fingerprint(model: nn.Module) -> str:
    """The fingerprint of the model that ``model`` was before ecc wrote check bits into it.

    If its words have changed since, they count as those of the unprotected model.
    """
    protection, now = protection_of(model), fingerprint(model)
    if protection is None or error_correction_of(model) is None:
        return now
    return protection.fingerprint if now == protection.current else now


def attach(model: nn.Module, protection: Protection) -> None:
    """Records ``protection`` as an attribute of ``model``."""
    setattr(model, _ATTRIBUTE, protection)


def save(model: nn.Module, path: str | Path) -> None:
    """Writes the thresholds and bounds of ``model`` to a file, without the model's weights.

    Args:
        model: the result of `protect` or `load`. Its device may differ; its weights must be equal
            bit by bit.
        path: usually ``something.safetensors``; an existing file is replaced.

    Raises:
        ValueError: ``model`` is not protected, its weights have changed, or a threshold is not one
            that `load` accepts (see `threshold_problem`).
        ProactError: the file cannot be written; an existing one is unchanged.
    """
    protection = protection_of(model)
    if protection is None:
        raise ValueError(
            f"expected a model that proact.protect.protect returned, got {type(model).__name__} "
            "without a protection"
        )
    if fingerprint(model) != protection.current:
        raise ValueError(
            f"the weights of {type(model).__name__} have changed since it was protected: "
            "protect it again"
        )
    clips = {site: model.get_submodule(site.name) for site in protection.sites}
    tensors: dict[str, Tensor] = {}
    sites = []
    for site, clip in clips.items():
        if not isinstance(clip, HyReLU):
            raise ValueError(f"expected a clip at {site.name}, got {type(clip).__name__}")
        threshold = clip.threshold.detach()
        if problem := threshold_problem(site, threshold):
            raise ValueError(f"the threshold at {short_repr(site.name)} {problem}")
        tensors[f"{site.name}.threshold"] = threshold
        sites.append({**_described(site), "mode": clip.mode, "slope": clip.slope})
    tensors |= _guard_tensors(model)
    guard, words = weight_range_of(model), error_correction_of(model)
    header = {
        "format": FORMAT,
        "applied": [{"method": name, "options": options} for name, options in protection.applied],
        "sites": sites,
        "guard": guard and {"granularity": guard.granularity, "action": guard.action},
        "ecc": words and {"code": words.code, "every": words.every, "interval": words.interval},
        "fingerprint": protection.fingerprint,
        "coded": protection.coded,
        "skipped": protection.skipped,
    }
    checkpoint.write(Path(path), tensors, {_HEADER: json.dumps(header)})


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """A protected copy of ``model``, in eval mode, equal to the model that `save` was called with.

    Args:
        model: the unprotected model, with the weights that it was protected with; untouched.
        path: a file that `save` wrote.

    Raises:
        ValueError: ``model`` lacks a site, has other weights, or is protected already.
        ProactError: ``path`` is not a file that `save` wrote, it is damaged, or another version of
            proact wrote it in another format.
    """
    path = Path(path)
    header, tensors = _read(path)
    if guards_on(model) or protection_of(model) is not None:
        raise ValueError(
            f"{type(model).__name__} is protected already: load onto the unprotected model"
        )
    clips: dict[Site, nn.Module] = {}
    for saved in header.sites:
        site, threshold = saved.site, tensors[f"{saved.name}.threshold"]
        _check_has(model, site, path)
        site = with_own_function(model, site)
        clips[site] = site.clip(threshold, saved.mode, saved.slope)
    if fingerprint(model) != header.fingerprint:
        raise ValueError(
            f"{path} was saved for other weights than those of {type(model).__name__}: load it "
            "onto the model that was protected"
        )
    try:
        result = replace_sites(model, clips) if clips else copy_model(model)
    except (TraceError, IndexError) as error:
        raise ValueError(
            f"{path} has sites that {type(model).__name__} does not have "
            f"({shortened(str(error), 200)}): it was saved for another model"
        ) from None
    if header.guard is not None:
        add_guard(result, header.guard.granularity, header.guard.action)
    if header.ecc is not None:
        add_ecc(result, header.ecc.code, header.ecc.every, header.ecc.interval)
    _restore_guards(result, tensors, path)
    applied = tuple((each.method, each.options) for each in header.applied)
    attach(
        result,
        Protection(applied, tuple(clips), header.fingerprint, header.skipped, header.coded),
    )
    return result.eval()


def _read(path: Path) -> tuple[SavedHeader, dict[str, Tensor]]:
    values, tensors = checkpoint.read(path, _HEADER, "saved protection", _MOST_BYTES)
    header = checked_header(path, values)
    for saved in header.sites:
        name = f"{saved.name}.threshold"
        if name not in tensors:
            raise damaged(path, f"it lacks {short_repr(name)}")
        problem = threshold_problem(saved.site, tensors[name])
        if problem:
            raise damaged(path, f"{short_repr(name)} {problem}")
    known = {*_GUARD_TENSORS, *(f"{saved.name}.threshold" for saved in header.sites)}
    for name in tensors.keys() - known:
        raise damaged(path, f"it holds {short_repr(name)}, which its header does not name")
    return header, tensors


def _restore_guards(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give the guards of ``model`` the numbers of the file."""
    own = _guard_tensors(model)
    checkpoint.refuse_other_tensors(
        path, {name: tensors[name] for name in _GUARD_TENSORS if name in tensors}, own
    )
    guard = weight_range_of(model)
    if guard is not None:
        low, high = tensors["weight_range.low"], tensors["weight_range.high"]
        if not (torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all():
            raise damaged(path, "its bounds are not finite, or a lower one is above the upper one")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _guard_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the guards of ``model`` by their names in a file."""
    found: dict[str, Tensor] = {}
    guard, words = weight_range_of(model), error_correction_of(model)
    if guard is not None:
        found |= {"weight_range.low": guard.low, "weight_range.high": guard.high}
    if words is not None and "replacements" in words._buffers:
        found["error_correction.replacements"] = words.replacements
    return found


def _described(site: Site) -> dict[str, Any]:
    """The fields of a site, without those that follow from the model."""
    return {
        "name": site.name,
        "shape": site.shape,
        "activation": site.activation,
        "places": site.places,
        "caller": site.caller,
        "call": site.call,
        "arguments": site.arguments,
    }


def _check_has(model: nn.Module, site: Site, path: Path) -> None:
    if site.caller is None:
        fits = all(has_activation(model, place, site.activation) for place in site.places)
    else:
        modules = dict(model.named_modules(remove_duplicate=False))
        # The name of a call's clip is new, so that the clip replaces nothing.
        child = site.name.rpartition(".")[2]
        fits = site.caller in modules and not hasattr(modules[site.caller], child)
    if not fits:
        raise ValueError(
            f"{path} has a threshold for the {site.activation.kind} {short_repr(site.name)}, which "
            f"{type(model).__name__} does not have: it was saved for another model"
        )
