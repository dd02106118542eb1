"""Thresholds and bounds as a file: safetensors with a JSON header that says where they belong.

The header (metadata key ``proact.protection``) holds the format's version, what was applied with
which options, each site with its activation and clip, and the fingerprint of the network; the
tensors are named as in the protected network (``<site>.threshold``, ``weight_range.low``).
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from proact.errors import ProactError
from proact.models import checkpoint
from proact.nn import HyReLU, Site, replace_sites, weight_range_of, without_weight_range
from proact.nn.activations import Activation, activation_of_module
from proact.protect.fingerprint import fingerprint
from proact.protect.weight_range import add_guard

FORMAT = 1
_HEADER = "proact.protection"
_ATTRIBUTE = "proact_protection"


@dataclass(frozen=True)
class Protection:
    """What was done to a network; copies of it carry it along.

    Attributes:
        applied: each method with its options as JSON has them, in the order of application.
        sites: of the clips; those of one method in execution order.
        fingerprint: of the network without protection.
    """

    applied: tuple[tuple[str, dict[str, Any]], ...]
    sites: tuple[Site, ...]
    fingerprint: str


def protection_of(model: nn.Module) -> Protection | None:
    """What `proact.protect.protect` did to ``model``; None where it did nothing."""
    return getattr(model, _ATTRIBUTE, None)


def attach(model: nn.Module, protection: Protection) -> None:
    """Has ``model`` carry it."""
    setattr(model, _ATTRIBUTE, protection)


def save(model: nn.Module, path: str | Path) -> None:
    """Writes what protects ``model``, and nothing of the network itself.

    Args:
        model: what `protect` or `load` returned. It may have been moved since; its weights have to
            be as they were, to the bit.
        path: usually ``something.safetensors``; replaced where it exists.

    Raises:
        ValueError: a network that nothing protects, or whose weights have changed. ProactError: the
            file cannot be written; an older one is then as it was.
    """
    protection = protection_of(model)
    if protection is None:
        raise ValueError(
            f"{type(model).__name__} is not what proact.protect.protect returned: there is nothing "
            "to save"
        )
    if fingerprint(model) != protection.fingerprint:
        raise ValueError(
            f"{type(model).__name__} has other weights than when it was protected: protect it anew"
        )
    clips = {site: model.get_submodule(site.name) for site in protection.sites}
    tensors: dict[str, Tensor] = {}
    sites = []
    for site, clip in clips.items():
        if not isinstance(clip, HyReLU):
            raise ValueError(f"{site.name} is no clip any more, but {type(clip).__name__}")
        tensors[f"{site.name}.threshold"] = clip.threshold.detach()
        sites.append({**asdict(site), "mode": clip.mode, "slope": clip.slope})
    guard = weight_range_of(model)
    if guard is not None:
        tensors |= {"weight_range.low": guard.low, "weight_range.high": guard.high}
    header = {
        "format": FORMAT,
        "applied": [{"method": name, "options": options} for name, options in protection.applied],
        "sites": sites,
        "guard": guard and {"granularity": guard.granularity, "action": guard.action},
        "fingerprint": protection.fingerprint,
    }
    checkpoint.write(Path(path), tensors, {_HEADER: json.dumps(header)})


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """A protected copy of ``model``, in eval mode, as it was when `save` wrote ``path``.

    Args:
        model: the unprotected network with the weights that were protected; untouched.

    Raises:
        ValueError: a network that has no such sites, has other weights, or is protected already.
        ProactError: a file that is none of `save`'s, or a newer proact's.
    """
    path = Path(path)
    header, tensors = _read(path)
    if weight_range_of(model) is not None or protection_of(model) is not None:
        raise ValueError(f"{type(model).__name__} is protected already: load onto the bare network")
    clips: dict[Site, nn.Module] = {}
    for described in header["sites"]:
        mode, slope = described.pop("mode"), described.pop("slope")
        site = _site(described)
        _check_has(model, site, path)
        clips[site] = site.clip(tensors[f"{site.name}.threshold"], mode, slope)
    if fingerprint(model) != header["fingerprint"]:
        raise ValueError(
            f"{path} was saved for other weights than {type(model).__name__} has: thresholds fit "
            "the network that they were chosen for"
        )
    result = replace_sites(model, clips) if clips else copy.deepcopy(without_weight_range(model))
    if header["guard"] is not None:
        guard = add_guard(result, header["guard"]["granularity"], header["guard"]["action"])
        guard.low.copy_(tensors["weight_range.low"])
        guard.high.copy_(tensors["weight_range.high"])
    applied = tuple((each["method"], each["options"]) for each in header["applied"])
    attach(result, Protection(applied, tuple(clips), header["fingerprint"]))
    return result.eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = checkpoint.read(path, _HEADER, "saved protection")
    version = header.get("format", FORMAT)
    if version > FORMAT:
        raise ProactError(
            f"{path} has format {version}, and this proact reads up to {FORMAT}: update it"
        )
    missing = {"format", "applied", "sites", "guard", "fingerprint"} - header.keys()
    missing |= {f"{site['name']}.threshold" for site in header.get("sites", ())} - tensors.keys()
    if missing:
        raise ProactError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return header, tensors


def _site(described: dict[str, Any]) -> Site:
    return Site(
        described["name"],
        tuple(described["shape"]),
        Activation(*described["activation"]),
        tuple(described["places"]),
        described["caller"],
        described["call"],
    )


def _check_has(model: nn.Module, site: Site, path: Path) -> None:
    names = dict(model.named_modules(remove_duplicate=False))
    if site.caller is None:
        fits = all(
            p in names and activation_of_module(names[p]) == site.activation for p in site.places
        )
    else:
        fits = site.caller in names
    if not fits:
        raise ValueError(
            f"{path} has a threshold for the {site.activation.kind} {site.name!r}, which "
            f"{type(model).__name__} does not have: it was saved for another network"
        )
