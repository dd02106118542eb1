"""Does a campaign end in the same rows when the system clock is set back and forward?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import proact
from proact import campaign, results
from proact.data import Data
from proact.faults import BitFlip
from proact.results import run_log
from result_rows import rows_of

FAULT = BitFlip(1e-2)
OPTIONS: dict[str, Any] = {"trials": 60, "images_per_trial": 16, "seed": 5}
#: Far more than these trials take, in seconds.
LONG = 100_000.0


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def undisturbed(digits: Data) -> results.Result:
    return campaign.run({"m": model()}, digits, [FAULT], executor=1, **OPTIONS)


def assert_durations(result: results.Result) -> None:
    for cell in result.states:
        assert all(0 <= row.seconds < LONG for row in result.rows(*cell))


def jumps() -> Iterator[float]:
    """Seconds to add to the clock."""
    return cycle([LONG, -LONG, 0.0, 30 * LONG, -30 * LONG])


@pytest.mark.parametrize("executor", [1, 2])
def test_every_reading_of_the_clock_jumps(
    undisturbed: results.Result,
    digits: Data,
    tmp_path: Path,
    executor: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by, seconds, nanoseconds = jumps(), time.time, time.time_ns

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=next(by))

    monkeypatch.setattr(time, "time", lambda: seconds() + next(by))
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(1e9 * next(by)))
    monkeypatch.setattr(run_log, "datetime", Jumping)
    path = tmp_path / "rows.sqlite"
    seen: list[float] = []
    result = campaign.run(
        {"m": model()}, digits, [FAULT], executor=executor, store=path,
        progress=lambda progress: seen.append(progress.done), **OPTIONS,
    )  # fmt: skip
    assert rows_of(result) == rows_of(undisturbed)
    assert seen == sorted(seen)
    assert_durations(result)
    # The labels are those of the clock, even if the session ended before it started.
    (again,) = results.read(path)
    (session,) = again.sessions
    assert session.outcome == "finished"
    assert session.ended is not None
    assert session.ended < session.started


SCRIPT = """
import time
from pathlib import Path
from proact import campaign, data
from test_clock_drills import FAULT, OPTIONS, model

clock, offsets, seen = Path("clock"), ["+3d", "-3d", "+0", "-300d", "+300d"], []

def jump(progress):
    clock.write_text(offsets[len(seen) % len(offsets)])
    seen.append(time.time())

begun = time.monotonic()
campaign.run({"m": model()}, data.load("digits"), [FAULT], executor=2, store="rows.sqlite",
             progress=jump, **OPTIONS)
day = 24 * 60 * 60
assert max(seen) - min(seen) > 3 * day, "the clock of this process jumped"
assert 0 <= time.monotonic() - begun < day, "its monotonic clock did not"
"""


@pytest.mark.slow
def test_a_process_whose_clock_jumps(undisturbed: results.Result, tmp_path: Path) -> None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    (tmp_path / "clock").write_text("+0")
    fake = {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "NO_FAKE_STAT": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, **fake},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (result,) = results.read(tmp_path / "rows.sqlite")
    assert rows_of(result) == rows_of(undisturbed)
    assert_durations(result)


def test_only_the_labels_of_sessions_come_from_the_system_clock() -> None:
    reads = re.compile(
        r"\btime\.(time|time_ns|localtime|gmtime|strftime)\b|\bdatetime\b|CLOCK_REALTIME"
    )
    root = Path(proact.__file__).parent
    users = {
        str(path.relative_to(root)) for path in root.rglob("*.py") if reads.search(path.read_text())
    }
    assert users - {"report/progress.py"} == {"results/run_log.py"}
