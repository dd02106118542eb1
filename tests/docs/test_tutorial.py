"""Runs the tutorial from its first block to its last, and checks the figures in its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from blocks import DOCS, blocks_of, run_page

from proact.faults import BitFlip

PAGE = DOCS / "tutorial.md"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, run_page(PAGE, folder)


def test_no_block_is_skipped() -> None:
    assert [block.line for block in blocks_of(PAGE) if block.reason is not None] == []


def test_it_writes_the_files_that_it_names(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    for name in ("digits.sqlite", "digits.png", "report/report.html", "thresholds.safetensors"):
        assert (folder / name).is_file(), name


def test_protection_gains_what_the_text_says(finished: tuple[Path, dict[str, Any]]) -> None:
    _, names = finished
    gains = names["result"].difference("proact", "relu")
    # "about 18 points at 1e-5 and about 65 at 1e-4": another machine trains another network.
    assert gains[str(BitFlip(1e-5))].low > 0.05
    assert gains[str(BitFlip(1e-4))].low > 0.4


def test_costs_are_those_of_the_text(finished: tuple[Path, dict[str, Any]]) -> None:
    _, names = finished
    assert (names["cost"].bounds, names["cost"].bytes) == (20, 80.0)
    assert names["proact"].protect.cost(names["clipped"], names["data"].test).thresholds == 67
