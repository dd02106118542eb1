"""Do two processes under torchrun find the thresholds that one finds?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_protection as script
import pytest
import torch
from safetensors.torch import load_file

from conftest import slow

pytestmark = pytest.mark.long

METHODS = [
    "proact",
    *slow("fitact", "ft-clipact", "resilience-aware-proact"),
]


def run_in_two(method: str, folder: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            script.__file__, method, str(folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_agree_with_one(tmp_path: Path, method: str) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    run_in_two(method, two)
    script.main(method, one)
    reports = [json.loads((two / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    alone = json.loads((one / "rank0.json").read_text())
    # To the bit the same in both, and one of them writes.
    assert reports[0]["digest"] == reports[1]["digest"]
    assert reports[1]["lines"] == []
    verdicts = [[line.partition(" (")[0] for line in each["lines"]] for each in (reports[0], alone)]
    assert verdicts[0] == verdicts[1]
    found, expected = (load_file(folder / "thresholds.safetensors") for folder in (two, one))
    assert found.keys() == expected.keys()
    for name, threshold in expected.items():
        torch.testing.assert_close(found[name], threshold, rtol=1e-7, atol=1e-9)
