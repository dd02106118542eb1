"""Does the benchmark of the guard run, and name its goals? No time is asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "weight_range.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True, check=False
    )


def test_it_prints_each_ratio_beside_its_goal() -> None:
    done = run("--network", "ResNet-20", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    for words in ("torch.sum", "<= 1.2", "torch.where, tensor by tensor", "unguarded", "<= 1.05"):
        assert words in done.stdout


def test_bad_numbers_are_refused() -> None:
    done = run("--repeats", "0")
    assert done.returncode == 2
    assert "--repeats take 1 or more" in done.stderr
