"""Print the results of a command: tables for people, or one JSON document for scripts."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from proact.text import printable


def print_line(text: object, to_errors: bool = False) -> None:
    """Print a line on standard output or standard error.

    The terminal obeys no character of it. A stream that was closed before the program started
    drops the line.
    """
    file = sys.stderr if to_errors else sys.stdout
    if file is not None:
        print(printable(str(text)), file=file, flush=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one document on standard output; NaN and infinities become null."""
    import json

    print(json.dumps(_plain(document), indent=2, allow_nan=False, default=str))


def print_tables(*tables: Any) -> None:
    """Print tables of rich on standard output."""
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
