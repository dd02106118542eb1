"""Does a lost worker cost no trial, unless the trial itself ends every worker?"""

from __future__ import annotations

import multiprocessing
import sqlite3
from concurrent.futures import process
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from frail import Frail, deadly_trials
from torch import nn

from proact import ProactError, campaign, results
from proact.campaign import coordinator, local_processes
from proact.data import Data
from proact.faults import BitFlip
from result_rows import rows_of

pytestmark = pytest.mark.long

FAULT = BitFlip(1e-2, bits="sign")
OPTIONS: dict[str, Any] = {"trials": 80, "images_per_trial": 16, "seed": 5}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> results.Result:
    model = Frail(tmp_path_factory.mktemp("model"))
    return campaign.run({"m": model}, digits, [FAULT], executor=1, **OPTIONS)


def run(model: nn.Module, digits: Data, executor: int | None = 2, **more: Any) -> results.Result:
    return campaign.run({"m": model}, digits, [FAULT], executor=executor, **{**OPTIONS, **more})


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_processes, "_FIRST_WAIT_SECONDS", 0.01)


def test_workers_that_die_before_they_start(
    undisturbed: results.Result, digits: Data, tmp_path: Path
) -> None:
    model = Frail(tmp_path, "start", times=2)
    result = run(model, digits)
    assert model.deaths() == 2
    assert result.failures() == {}
    assert rows_of(result) == rows_of(undisturbed)


@pytest.mark.slow
def test_workers_that_never_start(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_processes, "_START_ATTEMPTS", 2)
    store = tmp_path / "rows.sqlite"
    with (
        pytest.warns(UserWarning, match="the campaign goes on with 1"),
        pytest.raises(ProactError, match="no worker process can be started") as caught,
    ):
        run(Frail(tmp_path, "start"), digits, store=store)
    assert "--workers 1" in str(caught.value)
    with closing(sqlite3.connect(store)) as reader:
        assert reader.execute("SELECT count(*) FROM failure").fetchone() == (0,)


def test_a_machine_without_room_for_a_second_process(
    undisturbed: results.Result, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Scarce(local_processes._Process):
        def __init__(self, *args: Any) -> None:
            if started:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            super().__init__(*args)
            started.append(self)

    monkeypatch.setattr(local_processes, "_Process", Scarce)
    with pytest.warns(UserWarning, match=r"Resource temporarily .* goes on with 1"):
        result = run(Frail(tmp_path), digits)
    assert rows_of(result) == rows_of(undisturbed)


def test_a_machine_without_a_thread_for_a_second_process(
    undisturbed: results.Result, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, start = [], process._ExecutorManagerThread.start

    def start_one(thread: Any) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(process._ExecutorManagerThread, "start", start_one)
    with pytest.warns(UserWarning, match=r"\(can't start new thread\): .* goes on with 1"):
        result = run(Frail(tmp_path), digits)
    assert rows_of(result) == rows_of(undisturbed)
    assert multiprocessing.active_children() == [], "the process without a thread has ended"


def test_workers_that_die_between_trials(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "_MOST_LOST_WORKERS", 1)
    model, store = Frail(tmp_path, "between"), tmp_path / "rows.sqlite"
    with pytest.raises(ProactError, match="workers in a row were lost before a trial ended"):
        run(model, digits, store=store)
    assert model.deaths() >= 2
    with closing(sqlite3.connect(store)) as reader:
        assert reader.execute("SELECT count(*) FROM failure").fetchone() == (0,)


@pytest.mark.slow
def test_a_death_between_trials_is_no_attempt(
    undisturbed: results.Result, digits: Data, tmp_path: Path
) -> None:
    result = run(Frail(tmp_path, "between", times=1), digits)
    assert result.failures() == {}
    assert rows_of(result) == rows_of(undisturbed)


def test_workers_killed_from_outside(
    undisturbed: results.Result, digits: Data, tmp_path: Path
) -> None:
    kills = 0

    def kill(progress: campaign.CampaignProgress) -> None:
        nonlocal kills
        if progress.cells and kills < 2:
            for child in multiprocessing.active_children():
                child.kill()
            kills += 1

    result = run(Frail(tmp_path), digits, progress=kill)
    assert kills == 2
    assert result.failures() == {}
    assert rows_of(result) == rows_of(undisturbed)


def test_a_trial_that_kills_runs_alone_at_the_end(
    undisturbed: results.Result, digits: Data, tmp_path: Path
) -> None:
    deadly = deadly_trials(tmp_path, FAULT, OPTIONS["seed"], OPTIONS["trials"])
    model, store = Frail(tmp_path, "deadly"), tmp_path / "rows.sqlite"
    result = run(model, digits, store=store)
    ((_, failed),) = result.failures().items()
    assert [trial for trial, _ in failed] == deadly
    for _, reason in failed:
        assert reason.startswith("the worker was lost: its process ended")
    (cell,) = result.cells
    assert (cell.trials, cell.failed) == (OPTIONS["trials"] - len(deadly), len(deadly))
    (expected,) = rows_of(undisturbed).values()
    assert list(rows_of(result).values()) == [[r for r in expected if r.trial not in deadly]]
    # Each of them was run three times, no other trial cost a worker.
    assert model.deaths() == coordinator.ATTEMPTS * len(deadly)
    model.spare()
    # In this process, it runs again only if the caller says so, and its record stays until then.
    again = run(model, digits, executor=1, store=store)
    assert [trial for trial, _ in again.failures()["m", str(FAULT)]] == deadly
    # A trial that failed because of the machine alone is repaired by the same call.
    again = run(model, digits, executor=2, store=store)
    assert again.failures() == {}
    assert rows_of(again) == rows_of(undisturbed)


@pytest.mark.slow
def test_an_interrupted_repetition_keeps_the_record(digits: Data, tmp_path: Path) -> None:
    store = tmp_path / "rows.sqlite"
    model = Frail(tmp_path, "deadly")
    before = run(model, digits, store=store)
    assert before.failures()
    model.spare()

    def interrupt(progress: campaign.CampaignProgress) -> None:
        if progress.cells:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, digits, store=store, progress=interrupt)
    (after,) = results.read(store)
    assert after.failures() == before.failures()
    assert after.cells == before.cells


def test_a_dead_worker_is_replaced_wherever_it_stands() -> None:
    class Standing:
        """In place of a process; the last of three is dead."""

        failed_starts, is_ready = 0, True

        def __init__(self, *_: object, is_dead: bool = False) -> None:
            self.waiting: list[int] = [1, 2] if is_dead else []
            self.is_dead = is_dead

        def submit(self, unit: int) -> int:
            return unit

        def close(self) -> None:
            pass

    pool: Any = object.__new__(local_processes.LocalProcesses)
    pool._processes = [Standing(), Standing(), Standing(is_dead=True)]
    pool._add = lambda failed: pool._processes.append(Standing())
    assert pool.submit(7) == 7
    assert not any(process.is_dead for process in pool._processes)


@pytest.mark.slow
def test_a_lost_trial_does_not_run_in_this_process_unasked(digits: Data, tmp_path: Path) -> None:
    deadly = deadly_trials(tmp_path, FAULT, OPTIONS["seed"], OPTIONS["trials"])
    model, store = Frail(tmp_path, "deadly"), tmp_path / "rows.sqlite"
    run(model, digits, store=store)
    result = run(model, digits, executor=None, store=store)
    # In this process, which the model spares, they would succeed.
    assert [trial for trial, _ in result.failures()["m", str(FAULT)]] == deadly


def test_a_model_that_ends_python(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(ProactError, match=r"ended Python by SystemExit\(0\)"):
        run(Frail(tmp_path, "exit"), digits)
