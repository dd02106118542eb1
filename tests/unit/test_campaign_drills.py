"""Does a campaign come through whatever happens to it with the rows of an undisturbed one?"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from conftest import slow
from proact import campaign, interruption, results
from proact.campaign import trial_runner
from proact.data import Data
from proact.faults import BitFlip, encode, inject
from proact.results.store import Store
from result_rows import rows_of

pytestmark = pytest.mark.long

TRIALS = 250
PATIENCE_SECONDS = 60

#: Arguments: store, executor, the size that no file may exceed (0: any), the user to become (0:
#: as it is). What a trial takes is sleep, so that other programs make little difference.
SCRIPT = f"""
import json, os, resource, signal, sys, time
import torch
from torch import nn
from proact import ProactError, campaign
from proact.faults import BitFlip

# The tests may have been started with these signals ignored, as by nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)
store, executor, size, user = sys.argv[1], *map(int, sys.argv[2:])

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        time.sleep(float(os.environ.get("PAUSE", "0.002")))
        return self.linear(x.flatten(1))

random = torch.Generator().manual_seed(0)
samples = torch.rand(360, 64, generator=random), torch.randint(10, (360,), generator=random)
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
if user:
    # Python itself may be where nobody else can read: what is imported late is imported now.
    campaign.run({{"a": Slow()}}, samples, [BitFlip(1e-3)], trials=1).to_pandas()
    os.setuid(user)
print("ready", flush=True)
try:
    result = campaign.run(
        {{"a": Slow(), "b": nn.Sequential(Slow(), nn.ReLU())}}, samples,
        [BitFlip(1e-3), BitFlip(1e-2)], trials={TRIALS}, images_per_trial=16, seed=2,
        store=store, executor=executor, name="drill")
except ProactError as error:
    sys.exit(f"ProactError: {{error}}")
rows = [[list(row[:-1]) for row in result.rows(*cell)] for cell in result.states]
print(json.dumps([result.to_pandas().to_json(double_precision=15), rows]))
"""


class Drill:
    """Runs the script on a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "rows.sqlite"
        self.script = folder / "drill.py"
        self.script.write_text(SCRIPT)
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, executor: int = 1, size: int = 0, user: int = 0, pause: float = 0.002
    ) -> subprocess.Popen[str]:
        """Started, and about to begin its campaign.

        Args:
            pause: how long a forward pass sleeps, in seconds.
        """
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, (self.script, self.store, executor)),
             str(size), str(user)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.folder), "PAUSE": str(pause)},
        )  # fmt: skip
        self.started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def kill(self) -> None:
        """A test that fails leaves processes whose output nobody reads."""
        for process in self.started:
            with process:  # closes its pipes
                process.kill()

    def finish(self, executor: int = 1) -> Any:
        """Runs to the end: the table and the rows."""
        out, err = ended(process := self.start(executor, pause=0.0))
        assert (process.returncode, err) == (0, "")
        return json.loads(out)

    def stored(self) -> int:
        """How many rows there are; 0 without a store."""
        # A reader that makes no file.
        uri = f"file:{self.store}?mode=rw"
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(uri, uri=True)) as reader,
        ):
            return int(reader.execute("SELECT count(*) FROM row").fetchone()[0])
        return 0

    def wait_for_rows(self, number: int) -> None:
        for _ in range(100 * PATIENCE_SECONDS):
            if self.store.exists() and self.stored() >= number:
                return
            time.sleep(0.01)
        raise AssertionError(f"{number} rows did not come")

    def assert_sound(self) -> None:
        """Whole, and each row once."""
        with closing(sqlite3.connect(self.store)) as reader:
            assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert reader.execute("PRAGMA foreign_key_check").fetchall() == []
            (rows,) = reader.execute("SELECT count(*) FROM row WHERE trial < ?", (TRIALS,))
            (keys,) = reader.execute(
                "SELECT count(*) FROM (SELECT DISTINCT variant, fault, trial FROM row"
                " WHERE trial < ?)", (TRIALS,)
            )  # fmt: skip
            assert rows == keys == (4 * TRIALS,)
            for table, number in (("task", 1), ("variant", 2), ("fault", 2), ("campaign", 2)):
                assert reader.execute(f"SELECT count(*) FROM {table}").fetchone() == (number,)
            assert reader.execute("SELECT count(*) FROM failure").fetchone() == (0,)


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it wrote until its end."""
    try:
        return process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, number, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(number) == session and state not in "ZX":
                found.append(int(folder.name))
    return found


def assert_nobody_is_left(session: int) -> None:
    for _ in range(10 * PATIENCE_SECONDS):
        if not members(session):
            return
        time.sleep(0.1)
    left = members(session)
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    raise AssertionError(f"processes {left} go on without their coordinator")


def assert_nothing_is_left(drill: Drill) -> None:
    """The folder of temporary files holds the store and the script alone."""
    left = {path.name for path in drill.folder.iterdir()} - {drill.script.name}
    assert left <= {drill.store.name, f"{drill.store.name}-wal", f"{drill.store.name}-shm"}


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drill]:
    drill = Drill(tmp_path)
    yield drill
    drill.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    drill = Drill(tmp_path_factory.mktemp("undisturbed"))
    found = drill.finish()
    drill.assert_sound()
    return found


@pytest.mark.parametrize(
    ("executor", "kills", "longest"),
    [
        (1, 2, 1.2),
        (2, 2, 6.0),
        (1, 20, 1.0),
        (2, 20, 6.0),
    ],
)
@pytest.mark.slow
def test_killed_at_random_moments(
    drill: Drill, undisturbed: Any, executor: int, kills: int, longest: float
) -> None:
    moments = random.Random(kills + executor)
    seen = []
    for _ in range(kills):
        process = drill.start(executor)
        time.sleep(moments.uniform(0.0, longest))
        process.kill()
        ended(process)
        assert_nobody_is_left(process.pid)
        seen.append(drill.stored())
    assert seen == sorted(seen)
    assert drill.finish(executor) == undisturbed
    drill.assert_sound()


@pytest.mark.parametrize("number", [*slow(1), 300])
def test_killed_once_there_are_rows(drill: Drill, undisturbed: Any, number: int) -> None:
    process = drill.start(executor=2)
    drill.wait_for_rows(number)
    assert len(members(process.pid)) >= 2
    process.kill()
    ended(process)
    assert_nobody_is_left(process.pid)
    assert_nothing_is_left(drill)
    assert number <= drill.stored() < 4 * TRIALS
    assert drill.finish() == undisturbed
    drill.assert_sound()


def test_two_on_one_store(drill: Drill, undisturbed: Any) -> None:
    for process in [drill.start(), drill.start()]:
        out, err = ended(process)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out) == undisturbed
    drill.assert_sound()


def test_another_is_just_making_the_store(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with (
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN IMMEDIATE")

        def finish() -> None:
            time.sleep(0.5)
            other.execute("COMMIT")

        end = pool.submit(finish)
        with Store(path) as store:
            assert store.task("digest", {}) == 1
        end.result()


def test_a_full_disk(drill: Drill, undisturbed: Any) -> None:
    process = drill.start(size=180_000)
    _, err = ended(process)
    assert process.returncode == 1
    assert err.startswith(f"ProactError: the store {drill.store} cannot be used: ")
    assert len(err.splitlines()) == 1
    assert 1 <= drill.stored() < 4 * TRIALS
    assert drill.finish() == undisturbed
    drill.assert_sound()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("exists", slow(True, False))
def test_a_store_that_may_not_be_written(exists: bool) -> None:
    # Not below pytest's folders, which nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="proact-drill-"))
    try:
        drill = Drill(folder)
        if exists:
            process = drill.start()
            drill.wait_for_rows(1)
            process.kill()
            ended(process)
            drill.store.chmod(0o444)
        rows, before = drill.stored(), sorted(folder.iterdir())
        folder.chmod(0o555)
        _, err = ended(process := drill.start(user=65534))
        assert process.returncode == 1
        assert err.startswith(f"ProactError: the store {drill.store} cannot be used: ")
        assert len(err.splitlines()) == 1
        assert sorted(folder.iterdir()) == before
        assert drill.stored() == rows
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("executor", "number"),
    [
        (2, signal.SIGHUP),
        *slow(
            (1, signal.SIGINT),
            (1, signal.SIGTERM),
            (1, signal.SIGHUP),
            (2, signal.SIGINT),
            (2, signal.SIGTERM),
        ),
    ],
)
def test_ended_by_signals(drill: Drill, undisturbed: Any, executor: int, number: int) -> None:
    process = drill.start(executor, pause=0.02)  # it must not be over before the signals come
    drill.wait_for_rows(1)
    for _ in range(4):
        # As a terminal does, to all of them.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        time.sleep(0.02)
    _, err = ended(process)
    is_ctrl_c = number == signal.SIGINT
    # The last signals may come when Python has put the system's handlers back, at its very end.
    assert process.returncode in ((-number,) if is_ctrl_c else (128 + number, -number)), err
    *other, last = err.splitlines()
    if is_ctrl_c:
        assert last == "KeyboardInterrupt"
        assert err.count("Traceback") == 1, "workers say nothing"
        (last,) = [line for line in other if line.startswith("Interrupted: ")]
    else:
        assert not other
    kept = drill.stored()
    assert last == (
        f"Interrupted: {kept} trials are kept in {drill.store}; the same call continues from there."
    )
    assert 1 <= kept < 4 * TRIALS
    with closing(sqlite3.connect(drill.store)) as reader:
        assert reader.execute("SELECT outcome, rows FROM session").fetchall() == [
            ("interrupted", kept)
        ]
    assert_nobody_is_left(process.pid)
    assert_nothing_is_left(drill)
    assert drill.finish() == undisturbed
    drill.assert_sound()


class Odd(nn.Module):
    """Linear, and odd where faults turned the sign of its first weight (or always, under any)."""

    def __init__(self, way: Callable[[Tensor], Tensor], always: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)
        with torch.no_grad():
            self.linear.weight[0, 0] = 0.1
        self.first = self.linear.weight.detach().clone()
        self.way, self.always = way, always

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x.flatten(1))
        weight = self.linear.weight
        is_odd = weight[0, 0] < 0 or (self.always and not torch.equal(weight, self.first))
        return self.way(output) if is_odd else output


def plain(x: Tensor) -> Tensor:
    return x


def refuse(x: Tensor) -> Tensor:
    raise ArithmeticError("no such sign")


def nothing(x: Tensor) -> Tensor:
    return torch.full_like(x, float("nan"))


FAULT = BitFlip(0.02, bits="sign")
OPTIONS: dict[str, Any] = {"images_per_trial": 16, "seed": 4}


@pytest.mark.parametrize("metric", ["top-1", "loss", "sdc"])
def test_nothing_but_nan(digits: Data, metric: str) -> None:
    model = Odd(nothing, always=True)
    result = campaign.run({"m": model}, digits, [FAULT], trials=20, metric=metric, **OPTIONS)
    worst = {"top-1": 0.0, "loss": 20.0, "sdc": 1.0}[metric]
    for row in result.rows("m", FAULT):
        assert (row.non_finite, row.correct, row.agreeing) == (16, 0, 0)
        assert row.value == worst
    (cell,) = result.cells
    # Patterns without a flip are known to do no harm, and have their share: one in 10^5 or so.
    assert cell.value.low - 1e-4 <= worst <= cell.value.high + 1e-4
    assert result.failures() == {}
    assert not result.to_pandas(True).drop(columns=["variant", "fault"]).isna().any(axis=None)


@pytest.mark.parametrize("executor", [1, *slow(2)])
def test_trials_that_raise_are_recorded_and_widen_the_interval(
    digits: Data, tmp_path: Path, executor: int
) -> None:
    trials = 150
    encoded = encode(Odd(plain), "float32").eval()
    raising = []
    for trial in range(trials):
        with inject(encoded, FAULT, "float32", seed=OPTIONS["seed"], trial=trial):
            if encoded.get_parameter("linear.weight")[0, 0] < 0:
                raising.append(trial)
    assert 1 <= len(raising) < 20
    store = tmp_path / "rows.sqlite"
    variants = {"well": Odd(plain), "odd": Odd(refuse)}
    result = campaign.run(
        variants, digits, [FAULT], trials=trials, executor=executor, store=store,
        on_error="exclude", **OPTIONS,
    )  # fmt: skip
    reason = "ArithmeticError: no such sign"
    assert result.failures() == {("odd", str(FAULT)): [(trial, reason) for trial in raising]}
    with closing(sqlite3.connect(store)) as reader:
        attempts = reader.execute("SELECT attempts FROM failure WHERE trial < ?", (trials,))
        assert set(attempts) == {(1,)}
    rows = rows_of(result)
    assert len(rows["well", str(FAULT)]) == trials
    assert rows["odd", str(FAULT)] == [
        r for r in rows["well", str(FAULT)] if r.trial not in raising
    ]
    well, odd = result.cells
    assert (well.trials, well.failed) == (trials, 0)
    assert (odd.trials, odd.failed) == (trials - len(raising), len(raising))
    assert odd.value.low < well.value.low < well.value.high < odd.value.high
    # They are not tried again unless that is asked for, and change no table.
    again = campaign.run(
        variants, digits, [FAULT], trials=trials, store=store, on_error="exclude", **OPTIONS
    )
    assert again.failures() == result.failures()
    pd.testing.assert_frame_equal(again.to_pandas(), result.to_pandas(), check_exact=True)


@pytest.mark.parametrize("goal", [{"margin": 0.02}, *slow({"trials": 60})])
def test_where_every_trial_of_a_cell_raises(
    digits: Data, tmp_path: Path, goal: dict[str, Any]
) -> None:
    variants = {"odd": Odd(refuse, always=True), "well": Odd(plain)}
    tables = []
    for executor in (1, 2, 1):
        # The last finds what the second left.
        store = tmp_path / f"{min(len(tables), 1)}.sqlite"
        result = campaign.run(
            variants, digits, [FAULT], store=store, executor=executor, on_error="exclude",
            **goal, **OPTIONS,
        )  # fmt: skip
        cell, well = result.cells
        assert well.failed == cell.trials == 0
        assert cell.failed == len(result.failures()["odd", str(FAULT)]) >= 20
        # But for trials without a flip, two in a million, nothing is known.
        assert (cell.value.low, cell.value.high) == pytest.approx((0.0, 1.0), abs=3e-6)
        tables.append(result.to_pandas())
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)


def is_ended_by_ctrl_c(call: Callable[[], object], after: float) -> bool:
    """Whether Ctrl-C, so many seconds after its start, ends a call in this process."""
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        call()
        timer.join()
        time.sleep(0.1)  # it may come when the call is just over
    except KeyboardInterrupt:
        return True
    finally:
        timer.join()
    return False


@pytest.mark.slow
def test_ctrl_c_at_random_moments(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python drops exceptions in finalizers: with one in each trial, 3 % of these got lost."""
    monkeypatch.setattr(interruption, "QUIET_SECONDS", 0.0)
    faults, moments = [BitFlip(1e-3), BitFlip(1e-2)], random.Random(11)

    def run(number: int) -> None:
        store = tmp_path / f"{number}.sqlite"
        campaign.run({"m": Odd(plain)}, digits, faults, trials=100, store=store, **OPTIONS)

    run(0)
    start = time.perf_counter()
    run(1)
    longest = time.perf_counter() - start
    for number in range(2, 150):
        assert is_ended_by_ctrl_c(lambda n=number: run(n), moments.uniform(0.0, longest))


@pytest.fixture
def _jumping_clocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    jumps = itertools.cycle([0.0, 1e9, -1e9, 5.0, -3600.0])
    clocks = {name: lambda: time.perf_counter() + next(jumps) for name in ("time", "perf_counter")}
    monkeypatch.setattr(trial_runner, "time", SimpleNamespace(**clocks))
    yield
    assert next(jumps) != next(jumps)


def run_for_clocks(digits: Data, store: Path) -> results.Result:
    shown: list[int] = []
    result = campaign.run(
        {"m": Odd(plain)}, digits, [FAULT, BitFlip(1e-3)], margin=0.03, store=store,
        progress=lambda progress: shown.append(progress.done), **OPTIONS,
    )  # fmt: skip
    assert shown
    return result


def test_clocks_that_jump(digits: Data, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    steady = run_for_clocks(digits, tmp_path / "steady.sqlite")
    request.getfixturevalue("_jumping_clocks")
    jumping = run_for_clocks(digits, tmp_path / "jumping.sqlite")
    seconds = [
        row.seconds for rows in [jumping.rows(*cell) for cell in jumping.states] for row in rows
    ]
    assert min(seconds) < 0
    assert max(seconds) > 1e6
    assert rows_of(steady) == rows_of(jumping)
    pd.testing.assert_frame_equal(steady.to_pandas(), jumping.to_pandas(), check_exact=True)
