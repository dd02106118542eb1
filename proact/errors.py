"""The error class of proact, and the error for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from proact.text import label, quoted

#: Longer texts are compared with no name: that takes the square of their length.
_LONGEST_SUGGESTED = 200


class ProactError(Exception):
    """An error whose cause lies outside the arguments: a file, the machine or another program."""


def unknown(kind: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among the known ones: it lists them and suggests the
    closest.

    Args:
        kind: what the name stands for, as in ``"model"``.
    """
    names = dict.fromkeys(known)
    listed = f"a {kind} is one of {', '.join(map(label, names))}; got {quoted(given)}"
    return ValueError(f"{listed}{closest(given, names)}")


def closest(given: object, known: Iterable[str]) -> str:
    """``"; did you mean 'mode'?"`` where a known name is close to the given one, else nothing."""
    if len(str(given)) > _LONGEST_SUGGESTED:
        return ""
    names = {name.lower(): name for name in known if len(name) <= _LONGEST_SUGGESTED}
    close = difflib.get_close_matches(str(given).lower(), names, n=1)
    return f"; did you mean {quoted(names[close[0]])}?" if close else ""
