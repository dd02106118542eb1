"""Runs the Python blocks of the pages in order, as a reader would."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from blocks import DOCS, blocks_of, run_page

from proact.results import Result

TUTORIAL = DOCS / "tutorial.md"
OWN = DOCS / "your_network.md"
PAGES = sorted(page for page in DOCS.rglob("*.md") if blocks_of(page))


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", [p for p in PAGES if p not in (TUTORIAL, OWN)], ids=name_of)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def test_your_own_model_takes_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(DOCS / "own_network.py", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (block,) = blocks_of(OWN)
    assert len([line for line in block.code.splitlines() if line]) == 10
    result = run_page(OWN, tmp_path)["result"]
    assert isinstance(result, Result)
    assert {cell.variant for cell in result.cells} == {"mine", "hardened"}


def test_a_block_is_skipped_only_with_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na = 1\n```\n\ntext\n\n"
        "<!-- not executed: it would take a day -->\n```python\na = 2\n```\n\n"
        "* a list\n\n    ```python\n    b = a\n    ```\n\n"
        "```text\nno = code\n```\n"
    )
    assert [block.reason for block in blocks_of(page)] == [None, "it would take a day", None]
    assert run_page(page, tmp_path)["b"] == 1


def test_an_error_names_the_line_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nfine = 1\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(page, tmp_path)
    assert str(caught.traceback[-1].path) == str(page)
    assert caught.traceback[-1].lineno + 1 == 5
