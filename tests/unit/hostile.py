"""Names that try to break what shows them, and the samples of tiny campaigns that have them."""

from __future__ import annotations

import io
import re
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fuzz.names import hostile_names

LONG = 100_000 * "x"
NAMES = [
    *("relu[half]", "[/nope]", ":smile:", "$x$ and $y$", "_hidden", "a\nb", "a\\nb", "\x1b[31mred"),
    *(
        "\x1b]0;t\x07",
        "tab\there",
        "\u202eevil",
        "relu",
        "relu ",
        "relu\u200b",
        "r\xe9",
        "re\u0301",
    ),
    *("=1+1", "+1", "-1", "@SUM(A1)", "'quoted", '"a","b"', "a|b|c", "`code`", "</td><script>"),
    *(
        "&lt;",
        "\\textbf{x} & 5 % #_{}~^",
        "--",
        "网络 🙂",
        "שלום",
        "\ue000",
        "\uffff",
        "\x85",
        "\r",
    ),
    *("null", "1e-6", "- item", "{{ 7 }}", "%s {0}", "../../up", "variant"),
    *(LONG, f"{LONG}y", f"{LONG}\n{LONG}"),
    *hostile_names(seed=0, number=12),
]
METRIC = "=$m$ [/b] | \x1b[2J <i>:smile: `"
OPTIONS: dict[str, Any] = {"encoding": "float32", "executor": 1, "trials": 2, "progress": False}


def accuracy(output: Tensor, targets: Tensor, clean: Tensor) -> Tensor:
    return (output.argmax(1) == targets).double()


def samples() -> tuple[Tensor, Tensor]:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return x, x.argmax(1)


def on_terminal(*tables: Any, width: int = 4000) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    for table in tables:
        console.print(table)
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())  # styles of rich itself


def is_safe(text: str) -> bool:
    return all(sign.isprintable() or sign in "\n\xa0" for sign in text)
