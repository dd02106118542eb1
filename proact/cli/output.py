"""Print the results of a command: tables for people, or one JSON document for scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import typer


def print_json(document: Mapping[str, Any]) -> None:
    """Print one document on standard output; NaN and infinities become null."""
    import json

    typer.echo(json.dumps(_plain(document), indent=2, allow_nan=False, default=str))


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
