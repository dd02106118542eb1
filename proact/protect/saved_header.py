"""The header of a file of thresholds, as pydantic checks it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proact.errors import ProactError
from proact.nn.activations import KINDS, Activation
from proact.nn.site import Site
from proact.ops.hyrelu import check_mode_and_slope
from proact.protect.registry import METHODS
from proact.text import short_repr, shortened

FORMAT = 2
#: The methods that clip no activation.
_GUARDS = {"weight-range", "ecc"}
_Count = Annotated[int, Field(ge=0)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Saved(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SavedClip(_Saved):
    """A site with its clip: the fields of `proact.nn.Site`, a mode and a slope."""

    name: str
    shape: tuple[_Count, ...]
    activation: tuple[str, float, bool, str]
    places: tuple[str, ...]
    caller: str | None
    call: _Count
    arguments: str
    mode: str
    slope: float

    @property
    def site(self) -> Site:
        return Site(
            self.name,
            self.shape,
            Activation(*self.activation),
            self.places,
            self.caller,
            self.call,
            self.arguments,
        )


class SavedMethod(_Saved):
    """An applied method with its options."""

    method: str
    options: dict[str, Any]


class SavedGuard(_Saved):
    """The weight-range guard."""

    granularity: str
    action: str


class SavedCode(_Saved):
    """The ecc guard."""

    code: str
    every: _Count
    interval: float | None


class SavedHeader(_Saved):
    """The header; see `proact.protect.serialization`."""

    format: int
    applied: tuple[SavedMethod, ...]
    sites: tuple[SavedClip, ...]
    guard: SavedGuard | None
    ecc: SavedCode | None
    fingerprint: _Digest
    coded: _Digest
    skipped: tuple[str, ...]


def checked_header(path: Path, header: dict[str, Any]) -> SavedHeader:
    """Check the header of a file of thresholds.

    Raises:
        ProactError: another format, a missing, unknown or invalid entry, or no site although a
            method that clips was applied.
    """
    version = header.get("format")
    if version != FORMAT or isinstance(version, bool):
        is_newer = isinstance(version, int) and version > FORMAT
        advice = "update proact" if is_newer else "protect the model again"
        raise ProactError(
            f"{path} has format {short_repr(version)}, and this version of proact reads format "
            f"{FORMAT}: {advice}"
        )
    try:
        # As text, because strict JSON has no tuples, and lists are accepted for them.
        found = SavedHeader.model_validate_json(json.dumps(header))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{short_repr(place)}: {first['msg']}, got {short_repr(first['input'])}"
        raise damaged(path, reason) from None
    reason = _inconsistency(found)
    if reason:
        raise damaged(path, reason)
    return found


def damaged(path: Path, reason: str) -> ProactError:
    """Make the error for a file whose content is not valid."""
    return ProactError(f"{path} is damaged: {reason}: protect the model again")


def _inconsistency(header: SavedHeader) -> str:
    """Describe what contradicts the rest of the header; "" if nothing does."""
    methods = [each.method for each in header.applied]
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        return f"it names the method {short_repr(unknown[0])}, which does not exist"
    for each in header.applied:
        problem = _options_problem(each)
        if problem:
            return f"the options of {each.method} are not valid ({problem})"
    clips = set(methods) - _GUARDS
    if not methods or bool(clips) != bool(header.sites):
        return f"it has {len(header.sites)} sites, which does not fit the applied methods"
    if len({clip.name for clip in header.sites}) < len(header.sites):
        return "it names a site twice"
    for clip in header.sites:
        reason = _inconsistency_of(clip)
        if reason:
            return f"its entry for the site {short_repr(clip.name)} {reason}"
    return ""


def _options_problem(applied: SavedMethod) -> str:
    module = import_module(f"proact.protect.{METHODS[applied.method]}")
    try:
        module.METHOD.options(**{name: _frozen(each) for name, each in applied.options.items()})
    except (ValueError, TypeError) as error:
        return shortened(str(error), 200)
    return ""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _inconsistency_of(clip: SavedClip) -> str:
    kind, ceiling, _, _ = clip.activation
    if kind not in KINDS or not ceiling > 0:
        return "names no known activation"
    try:
        check_mode_and_slope(clip.mode, clip.slope)
    except ValueError as error:
        return f"is not valid ({error})"
    if clip.name not in clip.places:
        return "names no place for the clip"
    if clip.caller is not None:
        prefix = f"{clip.caller}." if clip.caller else ""
        child = clip.name.removeprefix(prefix)
        # torch.fx writes the name between quotes into the source of a rewritten forward.
        is_quotable = child.isprintable() and not set(child) & set('"\\.')
        if not (clip.name.startswith(prefix) and child and is_quotable):
            return "has a name that no call can have"
    return ""
