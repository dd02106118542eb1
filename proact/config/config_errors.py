"""What is wrong with an experiment: a sentence, and the path to the key that it is about."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

#: Keys and positions, from the outside in.
Place = tuple[str | int, ...]


class Wrong(ValueError):  # noqa: N818
    """A value that cannot stand.

    Args:
        sentence: what was expected, and what was given.
        place: where it is, seen from the value that is being read.
    """

    def __init__(self, sentence: str, place: Place = ()) -> None:
        super().__init__(sentence)
        self.sentence, self.place = sentence, place

    def within(self, *outer: str | int) -> Wrong:
        """The same, seen from further out."""
        return Wrong(self.sentence, (*outer, *self.place))


def closest(given: object, known: Iterable[str]) -> str:
    """``"; did you mean 'mode'?"`` where a known name is close to the given one, else nothing."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(given).lower(), names, n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def told(sentence: str, place: Place, source: str, flags: Mapping[str, str]) -> str:
    """The whole sentence: ``experiment.yaml: variants.ranger.mod: ...``, or where the key came from
    the command line ``--method ranger: ...``."""
    key = place[0] if place else None
    if isinstance(key, str) and key in flags:
        names = [part for part in place[1:2] if isinstance(part, str)]
        return f"{' '.join([flags[key], *names])}: {sentence}"
    return ": ".join(part for part in (source, dotted(place), sentence) if part)


def dotted(place: Place) -> str:
    """``variants.both[0].mode``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def sentence_of(error: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, Place]:
    """Of one of pydantic's errors: a sentence in our words, and the place."""
    place: Place = error["loc"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        return cause.sentence, (*place, *cause.place)
    if error["type"] == "extra_forbidden":
        return f"an experiment has no {place[-1]!r}{closest(place[-1], keys)}", place
    if error["type"] == "value_error":
        return str(cause), place
    expected = _EXPECTED.get(error["type"], str(error["msg"]).removeprefix("Input should be "))
    return f"expected {expected}, got {error['input']!r}", place


#: In our words, by pydantic's name of the error.
_EXPECTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "list_type": "a list",
}
