"""Fixtures: the packages as `make packages` builds them, and an environment that has the wheel.

Not in a conftest.py of this folder: `from conftest import ...` means tests/conftest.py everywhere.
A test module imports the fixture by its name; all modules share what it made.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Distributions:
    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Installed:
    """A virtual environment in which the wheel, and what it asks for, is all there is."""

    environment: Path

    def run(self, command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment ("python", "proact") in `cwd`, which lies outside the
        clone, with nothing of the caller's Python in its way.
        """
        assert ROOT not in (cwd.resolve(), *cwd.resolve().parents)
        return subprocess.run(
            [self.environment / "bin" / command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=clean_variables() | {"PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}"},
        )


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """What PROACT_DIST holds (`make dist` sets it), or packages built now."""
    return _distributions(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def installed_wheel(
    distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    return _installed(distributions.wheel, tmp_path_factory.getbasetemp())


@functools.cache
def _distributions(scratch: Path) -> Distributions:
    folder = Path(os.environ.get("PROACT_DIST") or scratch / "dist")
    if "PROACT_DIST" not in os.environ:
        _checked("make", "--directory", str(ROOT), "packages", f"DIST={folder}")
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Distributions(sdist, wheel)


@functools.cache
def _installed(wheel: Path, scratch: Path) -> Installed:
    environment = scratch / "environment"
    _checked(sys.executable, "-m", "venv", str(environment))
    python = environment / "bin" / "python"
    # scikit-learn comes with the extra: it has the digits, which tests use.
    _checked(str(python), "-m", "pip", "install", "--quiet", f"{wheel}[data]")
    return Installed(environment)


def _checked(*command: str) -> None:
    variables = clean_variables() | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def clean_variables() -> dict[str, str]:
    """The caller's, without what points at the caller's Python or make."""
    alien = ("PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV", "PROACT_")
    return {name: value for name, value in os.environ.items() if not name.startswith(alien)}
