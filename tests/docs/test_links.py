"""Checks the links of Markdown files outside docs/; MkDocs checks those of the site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "proact").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`[^`\n]*?\b((?:benchmarks|tests|proact)/[\w/]+\.\w+)", page.read_text())
    example = "proact/protect/scaled.py"  # a reader of the page writes it
    assert [name for name in named if not (ROOT / name).exists() and name != example] == []
