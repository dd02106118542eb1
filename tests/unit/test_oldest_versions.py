"""Does `make test-oldest` run with the very minimums of pyproject.toml?"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
#: Extras that are used, not those for who changes the source.
EXTRAS = ("dask", "data", "vision")


def minimums() -> dict[str, Version]:
    """The one lower bound of each requirement that has one, by canonical name."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project, extras = document["project"], document["project"]["optional-dependencies"]
    texts = [
        *document["build-system"]["requires"],
        *project["dependencies"],
        *(text for extra in EXTRAS for text in extras[extra]),
    ]
    found = {}
    for requirement in map(Requirement, texts):
        for bound in requirement.specifier:
            assert bound.operator == ">=", requirement
            found[canonicalize_name(requirement.name)] = Version(bound.version)
    return found


def test_the_oldest_versions_are_the_minimums() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {}
    for pin in pins:
        (bound,) = pin.specifier
        assert bound.operator == "=="
        pinned[canonicalize_name(pin.name)] = Version(bound.version)
    assert pinned == minimums()
