"""The error class of proact, and the error for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from proact.text import MOST_OF_VALUE, label, short_repr


class ProactError(Exception):
    """An error whose cause lies outside the arguments: a file, the machine or another program."""


def unknown(kind: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among the known ones: it lists them and suggests the
    closest.

    Args:
        kind: what the name stands for, as in ``"model"``.
    """
    names = dict.fromkeys(known)
    listed = f"a {kind} is one of {', '.join(map(label, names))}; got {short_repr(given)}"
    return ValueError(f"{listed}{closest(given, names)}")


def closest(given: object, known: Iterable[str]) -> str:
    """``"; did you mean 'mode'?"`` where a known name is close to the given one, else nothing."""
    if not isinstance(given, str) or len(given) > MOST_OF_VALUE:
        return ""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), names, n=1)
    return f"; did you mean {short_repr(names[close[0]])}?" if close else ""
