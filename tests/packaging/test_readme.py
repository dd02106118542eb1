"""Do the README's commands do what it says, for somebody who has the wheel and nothing else?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from built import ROOT, Distributions, clean_variables, distributions  # noqa: F401

pytestmark = pytest.mark.packaging

RUN_HERE = "<!-- tests/packaging runs this block -->"


def blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"{RUN_HERE}\n```sh\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def folder(
    distributions: Distributions,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with what the README's reader has in her clone, and nothing of Python's."""
    place = tmp_path_factory.mktemp("reader")
    (place / "dist").mkdir()
    (place / "docs").mkdir()
    shutil.copy(distributions.wheel, place / "dist")
    shutil.copy(ROOT / "docs" / "own_network.py", place / "docs")
    browser = place / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {place}/opened\n')
    browser.chmod(0o755)
    return place


def give(block: str, folder: Path) -> list[Path]:
    """Gives the commands, and returns the pages that they opened."""
    variables = clean_variables() | {
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "BROWSER": str(folder / "browser"),
        "PATH": f"/usr/local/bin:/usr/bin:/bin:{os.environ['PATH']}",
    }
    (folder / "opened").unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=variables,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    opened = (folder / "opened").read_text().split()
    return [Path(unquote(urlparse(address).path)) for address in opened]


def test_from_the_wheel_to_an_open_page_in_four_commands(folder: Path) -> None:
    first, own = blocks()
    assert len(first.strip().splitlines()) == 4
    for block, out, told in (
        (first, "runs/digits", "small-cnn on digits"),
        (own, "runs/own", "docs/own_network.py:network on docs/own_network.py:data"),
    ):
        (page,) = give(block, folder)
        assert page == folder / out / "report.html"
        assert f"Accuracy of {told} under faults" in page.read_text(encoding="utf-8")
        assert (folder / out / "accuracy.svg").stat().st_size > 0
        assert (folder / out / "experiment.yaml").exists()
