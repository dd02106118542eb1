"""Does Ctrl-C leave what was done, say how to go on, and does the same command then end alike?"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proact import models
from proact.cli import main

OWN = Path(__file__).parents[2] / "docs" / "own_network.py"
#: Takes its time where the environment says so, and gives the same there and elsewhere.
UNHURRIED = """
import os, time, torch
from torch import nn

class Pause(nn.Module):
    def forward(self, x):
        if "PAUSE" in os.environ:
            time.sleep(0.01)
        return x

def network():
    torch.manual_seed(0)
    return nn.Sequential(Pause(), nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))
"""
#: Whoever runs tests in the background has Ctrl-C ignored, and hands that down.
PROACT = """
import signal, sys
from proact.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


@pytest.mark.long
def test_a_campaign_goes_on_and_ends_in_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unhurried.py").write_text(UNHURRIED)
    command = [
        *("campaign", "--model", f"{tmp_path}/unhurried.py:network", "--data", f"{OWN}:data"),
        *("--ber", "1e-3,1e-2", "--variant", "relu", "--variant", "ranger", "--trials", "400"),
        *("--images-per-trial", "all", "--workers", "1"),
    ]
    stopped = tmp_path / "stopped"
    running = subprocess.Popen(
        [sys.executable, "-c", PROACT, *command, "--out", str(stopped)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PAUSE": ""},
    )
    before = _wait_for_rows(stopped / "rows.sqlite", running)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    kept = f"interrupted: finished work is kept in {stopped}; rerun the command to continue"
    assert kept in errors
    assert output == ""
    assert 0 < before < 4 * 400
    assert _cells(capsys, command, stopped) == _cells(capsys, command, tmp_path / "whole")


def _cells(capsys: pytest.CaptureFixture[str], command: list[str], out: Path) -> Any:
    assert main([*command, "--out", str(out), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["cells"]


def _wait_for_rows(store: Path, running: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.01)
        if not store.exists():
            continue
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as reader:
            try:
                (rows,) = reader.execute("SELECT count(*) FROM row").fetchone()
            except sqlite3.OperationalError:
                continue  # the schema is being written
        if rows:
            return int(rows)
    raise AssertionError("no row was stored")


@pytest.mark.parametrize("command", ["campaign", "protect"])
def test_ctrl_c_in_training(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "trained", stop)
    out = tmp_path / "thresholds.safetensors"
    assert main([command, "--out", str(out if command == "protect" else tmp_path)]) == 130
    assert "rerun the command to continue" in capsys.readouterr().err
    assert not out.exists()
