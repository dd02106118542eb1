"""Do the packages hold what they should, and nothing else?"""

from __future__ import annotations

import configparser
import re
import subprocess
import tarfile
import zipfile
from email import message_from_string

import pytest
from built import ROOT, Distributions, distributions  # noqa: F401

import proact

pytestmark = pytest.mark.packaging

GENERATED = re.compile(r"PKG-INFO|setup\.cfg|proact\.egg-info/.*")
FOR_THE_REPOSITORY = (".ci/", ".github/", ".gitignore")


def source_tree() -> set[str]:
    """What git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture
def wheel(distributions: Distributions) -> zipfile.ZipFile:  # noqa: F811
    return zipfile.ZipFile(distributions.wheel)


def test_the_wheel_is_the_package_and_its_native_module(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    native = {name for name in held if re.fullmatch(r"proact/_proact\.[\w-]+\.so", name)}
    assert len(native) == 1
    # The packages' READMEs are for developers; nothing reads them at run time.
    expected = {
        name
        for name in source_tree()
        if name.startswith("proact/") and not name.endswith("/README.md")
    }
    assert "proact/py.typed" in expected
    assert held - native == expected


def test_the_wheel_is_for_one_python_and_platform(distributions: Distributions) -> None:  # noqa: F811
    python, abi, platform = distributions.wheel.stem.split("-")[-3:]
    assert python == abi
    assert python.startswith("cp3")
    assert platform != "any"


def test_what_the_wheel_says_of_itself(wheel: zipfile.ZipFile) -> None:
    information = f"proact-{proact.__version__}.dist-info"
    metadata = message_from_string(wheel.read(f"{information}/METADATA").decode())
    assert metadata["Version"] == proact.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra")) == {
        "data",
        "dask",
        "notebook",
        "vision",
        "detection",
        "docs",
        "dev",
    }
    assert f"{information}/licenses/LICENSE" in wheel.namelist()
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(f"{information}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"proact": "proact.cli:main"}


def test_the_sdist_is_the_source_tree(distributions: Distributions) -> None:  # noqa: F811
    with tarfile.open(distributions.sdist) as archive:
        names = {member.name for member in archive if member.isfile()}
    top = f"proact-{proact.__version__}/"
    assert all(name.startswith(top) for name in names)
    held = {name.removeprefix(top) for name in names}
    held = {name for name in held if not GENERATED.fullmatch(name)}
    assert held == {name for name in source_tree() if not name.startswith(FOR_THE_REPOSITORY)}
