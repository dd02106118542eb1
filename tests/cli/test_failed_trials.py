"""Does a command say that trials failed, and does --retry-failed repeat them?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proact.cli import main
from proact.results import read
from result_rows import rows_of

OWN = Path(__file__).parents[2] / "docs" / "own_network.py"
#: Raises under faults that leave huge outputs, as long as a file is beside it.
FRAGILE = """
from pathlib import Path
import torch
from torch import nn

class Fragile(nn.Module):
    def forward(self, x):
        if Path(__file__).with_name("broken").exists() and not (x.abs() < 1e3).all():
            raise ArithmeticError("an output is too large")
        return x

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3), Fragile())
"""


def test_failed_trials_are_repeated_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    command = [
        *("campaign", "--model", f"{tmp_path}/fragile.py:network", "--data", f"{OWN}:data"),
        *("--variant", "relu", "--ber", "1e-3", "--encoding", "float32", "--trials", "60"),
        *("--images-per-trial", "all", "--on-error", "exclude", "--workers", "1"),
    ]
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    assert main([*command, "--out", str(undisturbed)]) == 0

    (tmp_path / "broken").touch()
    assert main([*command, "--out", str(out)]) == 3
    errors = capsys.readouterr().err
    assert "trials failed, which widens the intervals; the first is trial" in errors
    assert "an output is too large; --retry-failed repeats failed trials" in errors

    (tmp_path / "broken").unlink()
    assert main([*command, "--out", str(out)]) == 3, "unasked, they stay as they are"
    capsys.readouterr()
    assert main([*command, "--out", str(out), "--retry-failed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] is None
    (expected,), (repeated,) = (read(folder / "rows.sqlite") for folder in (undisturbed, out))
    assert rows_of(repeated) == rows_of(expected)
