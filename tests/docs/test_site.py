"""Builds the site without a warning; it documents every public name and fetches nothing."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "proact",
    "proact.campaign",
    "proact.data",
    "proact.encodings",
    "proact.faults",
    "proact.models",
    "proact.nn",
    "proact.ops",
    "proact.protect",
    "proact.report",
    "proact.results",
    "proact.results.statistics",
)
#: Elements for which a browser fetches a file, with the attribute that names it.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|audio|video|embed)\b[^>]*?\ssrc=[\"']?([^\"'\s>]+)"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*?\shref=[\"']?([^\"'\s>]+)"
    r"|<object\b[^>]*?\sdata=[\"']?([^\"'\s>]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        found = {"".join(groups) for groups in FETCHED.findall(page.read_text())}
        assert any(address.endswith(".css") for address in found), page
        foreign = [address for address in found if urlsplit(address).netloc]
        assert not foreign, f"{page.name} fetches {foreign}"


def test_style_sheets_and_scripts_fetch_nothing(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_documents_every_public_name(site: Path, package: str) -> None:
    module = importlib.import_module(package)
    names = {f"{package}.{name}" for name in getattr(module, "__all__", ())}
    missing = {name for name in names if not _is_documented(site, name)}
    assert not missing, f"docs/reference lacks {sorted(missing)}"


def test_functions_are_not_mistaken_for_their_modules(site: Path) -> None:
    pages = list((site / "reference").glob("*.html"))
    assert pages
    for page in pages:
        assert "doc-symbol-module" not in page.read_text(), page.name


def _is_documented(site: Path, name: str) -> bool:
    """Whether a page has an anchor for the name.

    A function with the name of its module, such as `proact.ops.hyrelu`, has its full name there.
    """
    known = _inventory(site)
    _, _, last = name.rpartition(".")
    is_module = (ROOT / f"{name.replace('.', '/')}.py").exists()
    full = f"{name}.{last}" if is_module else name
    page = known.get(full)
    return page is not None and f'id="{full}"' in (site / page.partition("#")[0]).read_text()


def _inventory(site: Path) -> dict[str, str]:
    """The page and anchor of each name, from Sphinx's inventory."""
    lines = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    rows = [line.split(" ", 4) for line in zlib.decompress(lines).decode().splitlines()]
    return {row[0]: row[3].replace("$", row[0]) for row in rows}


def test_equations_are_mathml(site: Path) -> None:
    text = (site / "methods.html").read_text() + (site / "statistics.html").read_text()
    assert text.count("<math ") > 50
    assert "arithmatex" not in text
    assert "$$" not in text
    equations = re.findall(r"<math .*?</math>", text, re.DOTALL)
    assert not [equation for equation in equations if "\\" in equation or "<mi>&</mi>" in equation]
