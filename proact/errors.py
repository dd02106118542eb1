"""The error that proact raises where neither ValueError nor TypeError fits."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProactError(Exception):
    """Something outside the arguments stands in the way: a file, the machine, another program."""


def unknown(kind: str, given: object, known: Iterable[str]) -> ValueError:
    """For a name that is none of the ``known`` ones: lists them, and suggests the closest."""
    names = list(known)
    close = difflib.get_close_matches(str(given).lower(), names, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ""
    return ValueError(f"a {kind} is one of {', '.join(names)}; got {given!r}{hint}")
