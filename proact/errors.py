"""The error class of proact, and the error for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProactError(Exception):
    """An error whose cause lies outside the arguments: a file, the machine or another program."""


def unknown(kind: str, given: object, known: Iterable[str]) -> ValueError:
    """A ValueError for a name that is not in ``known``.

    Args:
        kind: what the name stands for, such as ``"model"``.
        given: the name.
        known: the valid names; the message lists them and suggests the closest.
    """
    names = list(known)
    close = difflib.get_close_matches(str(given).lower(), names, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ""
    return ValueError(f"a {kind} is one of {', '.join(names)}; got {given!r}{hint}")
