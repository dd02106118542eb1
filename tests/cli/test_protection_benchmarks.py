"""Do the benchmarks of protection run, go on where they stopped, and name their goals?"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--model", "small-cnn", "--data", "digits", "--threads", "1"]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *TINY, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("protection")
    done = run("protection.py", *short(out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout.splitlines()


def short(out: Path) -> list[str]:
    rates = ["--ber", "1e-3", "--activation-ber", "1e-4"]
    few = ["--trials", "11", "--images", "40", "--patterns", "3", "--epochs", "1"]
    return [*rates, *few, "--out", str(out)]


def test_every_variant_is_in_every_table(finished: tuple[Path, list[str]]) -> None:
    out, _ = finished
    cost, parameters, gain, activations, _, spared = (
        (out / "tables.md").read_text().split("\n\n| ")[1:]
    )
    for table in (cost, parameters, activations):
        for variant in ("relu", "ft-clipact", "fitact", "proact (channel)", "weight-range"):
            assert f"| {variant} |" in table
    assert "| hybrid maxima |" not in gain
    assert "| weight-range |" in spared
    # A guard on memory does not see what happens to activations.
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in activations.splitlines()}
    assert rows["| weight-range"] == rows["| relu"]
    assert rows["| proact (hybrid) + weight-range"] == rows["| proact (hybrid)"]
    assert (out / "parameters.png").stat().st_size > 10_000


def test_the_same_command_goes_on(finished: tuple[Path, list[str]]) -> None:
    out, _ = finished
    before = (out / "tables.md").read_text()
    again = run("protection.py", *short(out))
    assert again.returncode == 0, again.stderr
    assert "took" not in again.stdout  # no method was applied again

    def without_times(text: str) -> list[str]:
        """The last column of the first table is a measured time."""
        cost, *rest = text.split("\n\n")
        return [line.rpartition(" | ")[0] for line in cost.splitlines()] + rest[1:]

    assert without_times((out / "tables.md").read_text()) == without_times(before)


def test_training_with_and_without_caches_ends_alike(tmp_path: Path) -> None:
    done = run("proact_training.py", "--epochs", "1", "--every", "2", "--networks", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "goal: 5 times faster than without caches" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "points" in line and "relu" in line]
    assert len(rows) == 2
    for row in rows:
        # How far is a matter of rounding, which training magnifies as the machine has it:
        # tests/unit/test_proact_training.py compares the two in float64.
        assert math.isfinite(float(row.split("│")[4].strip().removesuffix("%")))


def test_unknown_networks_are_refused(tmp_path: Path) -> None:
    for script in ("protection.py", "proact_training.py"):
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / script), "--model", "vgg61", "--data", "digits"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 2
        assert "vgg61" in done.stderr
