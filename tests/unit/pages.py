"""Parsers of report pages, and names that try to break them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from torch import nn

from proact import protect
from proact.campaign import CampaignProgress
from proact.data import Data

HOSTILE = [
    "<script>alert(1)</script>",
    "$x$ & 50 % #_{}~^\\",
    "_hidden",
    "[néfaste] 網絡 | *b* `c`",
]
OPTIONS: dict[str, Any] = {"encoding": "q15.16", "images_per_trial": 16, "executor": 1, "seed": 3}


class Page(HTMLParser):
    """The texts, tables and tags of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self._is_style = self._is_in_cell = False
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._is_style = tag == "style"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._is_in_cell = True
        elif tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False
        if tag in ("td", "th"):
            self._is_in_cell = False
            self.tables[-1][-1][-1] = " ".join(self.tables[-1][-1][-1].split())

    def handle_data(self, data: str) -> None:
        if self._is_style:
            return
        self.text += data
        if self._is_in_cell:
            self.tables[-1][-1][-1] += data

    def table(self, *heading: str) -> list[list[str]]:
        """The rows of the table whose heading begins with ``heading``."""
        (found,) = [t for t in self.tables if t and t[0][: len(heading)] == list(heading)]
        return found[1:]


def tables_of(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown document, rendered."""
    html = MarkdownIt("commonmark").enable("table").render(text)
    found = []
    for table in ElementTree.fromstring(f"<page>{html}</page>").iter("table"):
        found.append([["".join(cell.itertext()) for cell in row] for row in table.iter("tr")])
    return found


def checked(page: Page) -> list[str | None]:
    """The radio buttons that are chosen."""
    return [a["id"] for tag, a in page.tags if tag == "input" and "checked" in a]


def hostile_variants(model: nn.Module, data: Data) -> dict[str, nn.Module]:
    """A model and a protected one, twice, under the hostile names."""
    ranger = protect.protect(model, "ranger", data, mode="zero")
    return dict(zip(HOSTILE, [model, ranger, model, ranger], strict=True))


class Interrupt:
    """A progress callback: Ctrl-C as soon as the run has stored something."""

    def __init__(self) -> None:
        self._before: int | None = None

    def __call__(self, progress: CampaignProgress) -> None:
        if self._before is None:
            self._before = progress.stored
        elif progress.is_running and progress.stored > self._before:
            raise KeyboardInterrupt
