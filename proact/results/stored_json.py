"""Reads JSON from a store into dataclasses, and names the key whose value does not fit.

A store may come from elsewhere: types, keys and numbers are checked before they are used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from proact.errors import ProactError
from proact.text import short_repr

T = TypeVar("T")


def stored(kind: type[T]) -> type[T]:
    """Marks a dataclass that stores hold: unknown keys, NaN and infinity are refused, and so are
    values of other types, such as texts in place of numbers."""
    config = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
    kind.__pydantic_config__ = config  # type: ignore[attr-defined]
    return kind


def parsed_object(text: object, place: str) -> dict[str, Any]:
    """A JSON object as a dictionary; ``place`` names it in errors.

    Raises:
        ProactError: the text is no JSON, or no object.
    """
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProactError(f"{place} must be a JSON object, got {short_repr(text)}")
    return value


def made_from(kind: type[T], values: Mapping[str, Any], place: str) -> T:
    """An instance of a dataclass that was `stored`, from the values of a JSON object.

    Raises:
        ProactError: a key is unknown or missing, or its value has another type or is not finite.
    """
    from pydantic import ValidationError

    try:
        made: T = adapter_of(cast(Any, kind)).validate_json(json.dumps(values))
    except ValidationError as errors:
        raise _named(errors.errors()[0], place) from None
    except (ValueError, RecursionError):
        raise ProactError(f"{place} holds values nested too deeply") from None
    return made


@cache
def adapter_of(kind: Any) -> Any:
    """The reader of a dataclass; made once, because that takes longer than a reading."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _named(error: Mapping[str, Any], place: str) -> ProactError:
    *path, last = error["loc"] or ("",)
    key = short_repr(".".join(map(str, (*path, last))))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return ProactError(f"{place} has the key {key}, which proact does not know")
    if error["type"] in ("missing", "missing_argument"):
        return ProactError(f"{place} lacks the key {key}")
    expected = str(error["msg"]).removeprefix("Input should be ")
    return ProactError(f"{place} must have {expected} as {key}, got {short_repr(error['input'])}")
