"""Errors of a configuration: a sentence and the path to the invalid key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proact.errors import closest
from proact.text import label, short_repr

#: Keys and positions, the outermost first.
KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """A value that is not accepted.

    Args:
        sentence: states the expected and the given value.
        path: leads from the value that is being read to the invalid one.
    """

    def __init__(self, sentence: str, path: KeyPath = ()) -> None:
        super().__init__(sentence)
        self.sentence, self.path = sentence, path

    def within(self, *outer: str | int) -> ConfigError:
        """Return the same error with ``outer`` in front of its path."""
        return ConfigError(self.sentence, (*outer, *self.path))


def located(error: ConfigError, source: str, flags: Mapping[str, str]) -> str:
    """Return the full message, such as ``experiment.yaml: variants.ranger.mod: ...``.

    The message for a key from the command line names its flag: ``--variant ranger: ...``.

    Args:
        error: the error to describe.
        source: the name of the file.
        flags: the flag of each key that came from the command line.
    """
    key = error.path[0] if error.path else None
    if isinstance(key, str) and key in flags:
        names = [label(part) for part in error.path[1:2] if isinstance(part, str)]
        return f"{' '.join([flags[key], *names])}: {error.sentence}"
    return ": ".join(part for part in (source, dotted(error.path), error.sentence) if part)


def dotted(path: KeyPath) -> str:
    """Return a path as text, such as ``variants.both[0].mode``."""
    text = ""
    for part in path:
        name = "" if isinstance(part, int) else label(part)
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def from_pydantic(error: Mapping[str, Any], keys: Iterable[str]) -> ConfigError:
    """Convert an error of pydantic; ``keys`` are the known options, for a suggestion."""
    path: KeyPath = error["loc"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(cause.sentence, (*path, *cause.path))
    if error["type"] == "extra_forbidden":
        return ConfigError(
            f"there is no option {short_repr(path[-1])}{closest(path[-1], keys)}", path
        )
    if error["type"] == "value_error":
        return ConfigError(str(cause), path)
    expected = _EXPECTED.get(error["type"], str(error["msg"]).removeprefix("Input should be "))
    # pydantic appends the member type of a union to the path.
    place = path[:-1] if len(path) > 1 and str(path[-1]).startswith(_UNION_PARTS) else path
    return ConfigError(f"expected {expected}, got {short_repr(error['input'])}", place)


_UNION_PARTS = ("int", "str", "float", "bool", "list[", "dict[")

#: The expected value, by pydantic's name of the error.
_EXPECTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "list_type": "a list",
}
