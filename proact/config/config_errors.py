"""Errors of a configuration: a sentence, and the path to the key that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proact.errors import closest

#: Keys and positions, from the outside in.
KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """A value that is not accepted.

    Args:
        sentence: what was expected, and what was given.
        path: to the wrong value, from the value that is being read.
    """

    def __init__(self, sentence: str, path: KeyPath = ()) -> None:
        super().__init__(sentence)
        self.sentence, self.path = sentence, path

    def within(self, *outer: str | int) -> ConfigError:
        """The same error with the path from further outside."""
        return ConfigError(self.sentence, (*outer, *self.path))


def located(error: ConfigError, source: str, flags: Mapping[str, str]) -> str:
    """The whole message: ``experiment.yaml: variants.ranger.mod: ...``, or for a key that was given
    on the command line ``--variant ranger: ...``.

    Args:
        source: the name of the file.
        flags: by key, the flag of each key that came from the command line.
    """
    key = error.path[0] if error.path else None
    if isinstance(key, str) and key in flags:
        names = [part for part in error.path[1:2] if isinstance(part, str)]
        return f"{' '.join([flags[key], *names])}: {error.sentence}"
    return ": ".join(part for part in (source, dotted(error.path), error.sentence) if part)


def dotted(path: KeyPath) -> str:
    """``variants.both[0].mode``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def from_pydantic(error: Mapping[str, Any], keys: Iterable[str]) -> ConfigError:
    """One of pydantic's errors in the project's words."""
    path: KeyPath = error["loc"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(cause.sentence, (*path, *cause.path))
    if error["type"] == "extra_forbidden":
        return ConfigError(f"there is no option {path[-1]!r}{closest(path[-1], keys)}", path)
    if error["type"] == "value_error":
        return ConfigError(str(cause), path)
    expected = _EXPECTED.get(error["type"], str(error["msg"]).removeprefix("Input should be "))
    # A union adds the type that it tried to the path.
    place = path[:-1] if len(path) > 1 and str(path[-1]).startswith(_UNION_PARTS) else path
    return ConfigError(f"expected {expected}, got {error['input']!r}", place)


_UNION_PARTS = ("int", "str", "float", "bool", "list[", "dict[")

#: By pydantic's name of the error.
_EXPECTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "list_type": "a list",
}
