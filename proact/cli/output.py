"""Print the results of a command: tables for people, or one JSON document for scripts."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from proact.text import printable


def print_line(text: object, to_errors: bool = False) -> None:
    """Print a line on standard output or standard error.

    The terminal obeys no character of it, and none is an error: what the terminal's encoding lacks
    becomes an escape.
    """
    file = sys.stderr if to_errors else sys.stdout
    with _encodable(file):
        print(printable(str(text)), file=file, flush=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one document on standard output; NaN and infinities become null."""
    import json

    typer.echo(json.dumps(_plain(document), indent=2, allow_nan=False, default=str))


def print_tables(*tables: Any) -> None:
    """Print tables of rich on standard output."""
    from rich.console import Console

    with _encodable(sys.stdout):
        console = Console()
        for table in tables:
            console.print(table)


@contextmanager
def _encodable(file: TextIO) -> Iterator[None]:
    """Characters that the file's encoding lacks are written as escapes meanwhile."""
    if not isinstance(file, io.TextIOWrapper):
        yield
        return
    before = file.errors
    file.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        file.reconfigure(errors=before)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
