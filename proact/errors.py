"""The error class of proact, and the parts of messages: unknown names and short values."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

#: The most characters of a value in a message.
LONGEST = 80
_MOST_ENTRIES, _MOST_BITS = 8, 256


class ProactError(Exception):
    """An error whose cause lies outside the arguments: a file, the machine or another program."""


class _ShortRepr(reprlib.Repr):
    """Never makes the whole text of a large value: aliases of YAML may stand for gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = LONGEST
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = _MOST_ENTRIES
        self.maxfrozenset = self.maxdeque = self.maxarray = _MOST_ENTRIES

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of thousands of digits.
        bits = x.bit_length()
        return repr(x) if bits <= _MOST_BITS else f"<an integer of {bits} bits>"

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        # reprlib sorts the keys; a message shows them as they were given.
        if not x or level <= 0:
            return "{...}" if x else "{}"
        shown = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join([*shown, *(['...'] if len(x) > self.maxdict else [])])}}}"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= LONGEST else f"{x[:LONGEST]!r}..."

    def repr_instance(self, x: Any, level: int) -> str:
        return " ".join(super().repr_instance(x, level).split())


_SHORT = _ShortRepr()


def short_repr(value: object) -> str:
    """The ``repr`` of a value for a message: one line of at most about `LONGEST` characters.

    The cost does not grow with the size of a text, list, mapping or integer.
    """
    return shortened(_SHORT.repr(value))


def shortened(text: str, most: int = LONGEST) -> str:
    """``text``, with its middle replaced by three dots if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    kept = most - 3
    return f"{text[: kept - kept // 3]}...{text[-(kept // 3) :]}"


def unknown(kind: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among the known ones: it lists them and suggests the
    closest.

    Args:
        kind: what the name stands for, as in ``"model"``.
    """
    names = list(known)
    listed = f"a {kind} is one of {', '.join(names)}; got {short_repr(given)}"
    return ValueError(f"{listed}{closest(given, names)}")


def closest(given: object, known: Iterable[str]) -> str:
    """``"; did you mean 'mode'?"`` where a known name is close to the given one, else nothing."""
    if not isinstance(given, str) or len(given) > LONGEST:
        return ""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), names, n=1)
    return f"; did you mean {short_repr(names[close[0]])}?" if close else ""
