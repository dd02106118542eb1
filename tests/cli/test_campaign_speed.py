"""Does the campaign benchmark run as a user runs it, and are its figures sums of what it shows?"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "campaign_speed.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )


@pytest.mark.slow
def test_it_prints_tables_and_writes_json(tmp_path: Path) -> None:
    done = run(
        "--model", "small-cnn", "--data", "digits", "--networks", tmp_path, "--ber", "1e-5", "1e-4",
        "--margin", "0.1", "--script-trials", "3", "--repeats", "5", "--threads", "1",
        "--json", tmp_path / "new" / "figures.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "geometric mean" in done.stdout
    figures = json.loads((tmp_path / "new" / "figures.json").read_text())
    ratios = [
        t["seconds"] / o["seconds"] for t, o in zip(figures["script"], figures["ours"], strict=True)
    ]
    assert figures["geometric_mean"] == pytest.approx(math.sqrt(ratios[0] * ratios[1]))
    for mine, theirs in zip(figures["ours"], figures["script"], strict=True):
        assert mine["accuracy"]["high"] - mine["accuracy"]["low"] <= 0.2
        assert theirs["trials"] >= 30
    assert figures["workers"]["ratio"] > 0
    assert 0 < figures["storing"]["share"] < 1


def test_bad_input_is_one_sentence() -> None:
    for arguments, words in (
        (["--script-trials", "1"], "--script-trials takes 2 or more"),
        (
            ["--margin", "0", "--data", "digits", "--model", "small-cnn"],
            "margin: expected a finite number above 0",
        ),
        (["--data", "nothing"], "nothing"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
