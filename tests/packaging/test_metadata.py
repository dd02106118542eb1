"""Do the files that say the same thing twice say the same thing?"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from typing import Any

import pytest
import yaml
from built import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import proact

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The one release that has to stand for all of Python 3.10 is its last but few.
PYTHON_3_10 = "3.10.13"


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    return found


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_version_stands_in_pyproject_and_is_what_is_installed() -> None:
    assert pyproject()["project"]["version"] == proact.__version__


def test_the_citation_is_of_this_version() -> None:
    assert citation()["version"] == proact.__version__


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    heading = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    version, date = heading.groups()
    assert version == proact.__version__
    # A release has its day in both places; what is not released has none.
    released = citation().get("date-released")
    assert date == ("unreleased" if released is None else str(released))


def test_no_page_speaks_of_another_version() -> None:
    """Where a page names a version of proact, it is this one."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    spoken = r"\bproact(?:,? version |==|[ -])v?"
    assigned = r"^\s*\"?version\"?\s*[:=]\s*[{\"']?"
    naming = re.compile(rf"(?:{spoken}|{assigned})(\d+\.\d+\.\d+)", re.MULTILINE)
    for page in pages:
        for named in naming.finditer(page.read_text()):
            assert named[1] == proact.__version__, f"{page}: {named[0]}"


def test_the_citation_has_what_the_format_asks_for() -> None:
    told = citation()
    assert told["cff-version"] == "1.2.0"
    assert told["type"] == "software"
    assert told["license"] == pyproject()["project"]["license"]
    for field in ("message", "title", "authors"):
        assert told[field]
    assert told["authors"] == pyproject()["project"]["authors"]


def test_the_paper_is_cited_as_somebody_elses() -> None:
    told = citation()
    # GitHub and others would show a preferred citation in place of the software.
    assert "preferred-citation" not in told
    (paper,) = told["references"]
    assert paper["url"] == pyproject()["project"]["urls"]["Paper"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Mousavi", "Ahmadilivani", "Raik", "Jenihhin", "Daneshtalab"]
    assert not set(names) & {str(author.get("family-names")) for author in told["authors"]}


@pytest.mark.parametrize("pin", pins(), ids=lambda pin: pin.name)
def test_a_pin_that_python_3_10_cannot_have_is_marked(pin: Requirement) -> None:
    try:
        metadata = importlib.metadata.metadata(pin.name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("only there while the package is built")
    if not pin.specifier.contains(metadata["Version"], prereleases=True):
        pytest.skip(f"this environment has {metadata['Version']}")
    runs_there = SpecifierSet(metadata.get("Requires-Python") or "").contains(PYTHON_3_10)
    applies_there = pin.marker is None or pin.marker.evaluate(
        {"python_version": "3.10", "python_full_version": PYTHON_3_10}
    )
    assert applies_there == runs_there


def test_every_pin_is_one_exact_version() -> None:
    for pin in pins():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin


def test_pythons_are_the_same_for_classifiers_and_wheels() -> None:
    told = pyproject()
    classified = re.findall(r"Python :: (3\.\d+)", " ".join(told["project"]["classifiers"]))
    built = re.findall(r"cp3(\d+)-", " ".join(told["tool"]["cibuildwheel"]["build"]))
    assert classified == [f"3.{minor}" for minor in built]
    assert told["project"]["requires-python"] == f">={classified[0]}"


def test_development_has_what_other_extras_test() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    assert set(extras) == {"data", "dask", "notebook", "vision", "detection", "docs", "dev"}
    # `make` installs data, dev and docs: executors on Dask are tested there too.
    assert set(extras["dask"]) <= set(extras["dev"])
    assert set(extras["notebook"]) <= set(extras["dev"])
