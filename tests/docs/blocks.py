"""Finds and runs the Python blocks of the documentation's pages.

The blocks of a page share one namespace and one temporary folder. A block is skipped only if a
comment right before it gives the reason: ``<!-- not executed: needs two machines -->``.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(
    r"(?:^<!-- not executed: (?P<reason>\S[^\n]*?) -->\n+)?"
    r"^(?P<indent>[ ]*)```python\b[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        page: the file.
        line: the number of the block's first line in the file.
        code: its source.
        reason: why it is not executed; None if it is.
    """

    page: Path
    line: int
    code: str
    reason: str | None

    def run(self, namespace: dict[str, Any]) -> None:
        """Executes the code with the line numbers of the page, for tracebacks and `inspect`."""
        code = "\n" * (self.line - 1) + self.code
        exec(compile(code, str(self.page), "exec"), namespace)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        lines = match["code"].splitlines(keepends=True)
        code = "".join(line.removeprefix(match["indent"]) for line in lines)
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, code, match["reason"]))
    return found


def run_page(page: Path, folder: Path) -> dict[str, Any]:
    """Runs the blocks of a page in ``folder`` and returns the namespace at the end."""
    module = ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module  # dataclasses look up their module
    before = Path.cwd()
    os.chdir(folder)
    try:
        for block in blocks_of(page):
            if block.reason is None:
                block.run(module.__dict__)
    finally:
        os.chdir(before)
        del sys.modules[module.__name__]
    return module.__dict__
