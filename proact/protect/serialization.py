"""Save a protection to a safetensors file, and load it onto the unprotected model.

The metadata key ``proact.protection`` holds a JSON header: the version of the format, the applied
methods with their options, each site with its activation and clip, and the fingerprint of the
model. Tensors have their names in the protected model (``<site>.threshold``, ``weight_range.low``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from proact.errors import ProactError, short_repr
from proact.models import checkpoint
from proact.nn import HyReLU, Site, error_correction_of, replace_sites, weight_range_of
from proact.nn.activations import Activation
from proact.nn.guard_hooks import guards_on
from proact.nn.module_copy import copy_model
from proact.nn.sites import has_activation, with_own_function
from proact.protect.ecc import add_ecc
from proact.protect.fingerprint import fingerprint
from proact.protect.weight_range import add_guard

FORMAT = 1
_HEADER = "proact.protection"
_ATTRIBUTE = "proact_protection"


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
    """The `Protection` of ``model``, or None if `proact.protect.protect` did not make it."""
    return getattr(model, _ATTRIBUTE, None)


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
        ValueError: ``model`` is not protected, or its weights have changed.
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
        tensors[f"{site.name}.threshold"] = clip.threshold.detach()
        sites.append({**_described(site), "mode": clip.mode, "slope": clip.slope})
    guard = weight_range_of(model)
    if guard is not None:
        tensors |= {"weight_range.low": guard.low, "weight_range.high": guard.high}
    words = error_correction_of(model)
    if words is not None and "replacements" in words._buffers:
        tensors["error_correction.replacements"] = words.replacements
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
        ProactError: ``path`` is not a file that `save` wrote, or a newer proact wrote it.
    """
    path = Path(path)
    header, tensors = _read(path)
    if guards_on(model) or protection_of(model) is not None:
        raise ValueError(
            f"{type(model).__name__} is protected already: load onto the unprotected model"
        )
    clips: dict[Site, nn.Module] = {}
    for described in header["sites"]:
        mode, slope = described.pop("mode"), described.pop("slope")
        site = _site(described)
        _check_has(model, site, path)
        site = with_own_function(model, site)
        clips[site] = site.clip(tensors[f"{site.name}.threshold"], mode, slope)
    if fingerprint(model) != header["fingerprint"]:
        raise ValueError(
            f"{path} was saved for other weights than those of {type(model).__name__}: load it "
            "onto the model that was protected"
        )
    result = replace_sites(model, clips) if clips else copy_model(model)
    if header["guard"] is not None:
        add_guard(result, header["guard"]["granularity"], header["guard"]["action"])
    words = header.get("ecc")
    if words is not None:
        add_ecc(result, words["code"], words["every"], words["interval"])
    guard = weight_range_of(result)
    if guard is not None:
        guard.low.copy_(tensors["weight_range.low"])
        guard.high.copy_(tensors["weight_range.high"])
    coder = error_correction_of(result)
    if coder is not None and "replacements" in coder._buffers:
        coder.replacements.copy_(tensors["error_correction.replacements"])
    applied = tuple((each["method"], each["options"]) for each in header["applied"])
    skipped, coded = tuple(header.get("skipped", ())), header.get("coded", "")
    attach(result, Protection(applied, tuple(clips), header["fingerprint"], skipped, coded))
    return result.eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = checkpoint.read(path, _HEADER, "saved protection")
    version = header.get("format", FORMAT)
    if version > FORMAT:
        raise ProactError(
            f"{path} has format {version}, and this version of proact reads up to format "
            f"{FORMAT}: update proact"
        )
    missing = {"format", "applied", "sites", "guard", "fingerprint"} - header.keys()
    missing |= {f"{site['name']}.threshold" for site in header.get("sites", ())} - tensors.keys()
    if missing:
        raise ProactError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return header, tensors


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


def _site(described: dict[str, Any]) -> Site:
    return Site(
        described["name"],
        tuple(described["shape"]),
        Activation(*described["activation"]),
        tuple(described["places"]),
        described["caller"],
        described["call"],
        described.get("arguments", "{}"),
    )


def _check_has(model: nn.Module, site: Site, path: Path) -> None:
    if site.caller is None:
        fits = all(has_activation(model, place, site.activation) for place in site.places)
    else:
        fits = site.caller in dict(model.named_modules(remove_duplicate=False))
    if not fits:
        raise ValueError(
            f"{path} has a threshold for the {site.activation.kind} {short_repr(site.name)}, which "
            f"{type(model).__name__} does not have: it was saved for another model"
        )
