"""Does a campaign tell the loss of Dask's job, connection or units from the loss of a worker?

The client is a stand-in, because these moments are hard to hit with a real one.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from proact import ProactError, campaign, results
from proact.campaign import coordinator
from proact.data import Data
from proact.faults import BitFlip
from result_rows import rows_of

FAULT = BitFlip(1e-2)
OPTIONS: dict[str, Any] = {"trials": 80, "images_per_trial": 16, "seed": 5}


class KilledWorker(Exception):  # noqa: N818
    def __init__(self, task: str) -> None:
        super().__init__(f"workers died while they ran {task}")
        self.task = task


class DaskLike(ThreadPoolExecutor):
    """A thread that runs units, with a client as Dask's executor has.

    Args:
        jobs_lost: how many of its jobs it gives up before the first unit reads them.
        stop_after: it does not finish units after so many.
        then: what happens instead.
    """

    def __init__(self, jobs_lost: int = 0, stop_after: int = 1000, then: str = "") -> None:
        super().__init__(1)
        self._client = self
        self.status, self.scheduler_comm = "running", object()
        self.jobs, self.jobs_lost = 0, jobs_lost
        self.units, self.stop_after, self.then = 0, stop_after, then

    def scatter(self) -> None: ...

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Any:
        if "pure" in options:
            self.jobs += 1
            return SimpleNamespace(key=f"job-{self.jobs}", data=arguments[0])
        future: Future[Any] = Future()
        job = arguments[1] if len(arguments) == 4 else None
        if job is not None and int(job.key.removeprefix("job-")) <= self.jobs_lost:
            future.set_exception(KilledWorker(job.key))
            return future
        if job is not None:
            arguments = (arguments[0], job.data, *arguments[2:])
        self.units += 1
        if self.units <= self.stop_after:
            return super().submit(function, *arguments)
        if self.then == "cancel":
            future.cancel()
            future.set_running_or_notify_cancel()
        elif self.then == "close":
            self.status = "closed"
        elif self.then == "reconnect":
            self.scheduler_comm = object()
        return future


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(autouse=True)
def _short_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "_MOST_TRIALS", 8)


@pytest.fixture(scope="module")
def undisturbed(digits: Data) -> results.Result:
    return campaign.run({"m": model()}, digits, [FAULT], executor=1, **OPTIONS)


def run(digits: Data, executor: Any, store: Path | None = None) -> results.Result:
    return campaign.run({"m": model()}, digits, [FAULT], executor=executor, store=store, **OPTIONS)


def test_a_job_that_dask_gives_up_is_sent_again(undisturbed: results.Result, digits: Data) -> None:
    with DaskLike(jobs_lost=3) as executor:
        result = run(digits, executor)
    assert executor.jobs == 4
    assert result.failures() == {}
    assert rows_of(result) == rows_of(undisturbed)


def test_a_job_that_dask_always_gives_up(digits: Data, tmp_path: Path) -> None:
    with DaskLike(jobs_lost=1000) as executor, pytest.raises(ProactError, match="more memory"):
        run(digits, executor, tmp_path / "rows.sqlite")
    assert executor.jobs == 10


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("cancel", "does not accept more work, and cancelled a unit"),
        ("close", "the connection to the Dask scheduler is lost"),
        ("reconnect", "the connection to the Dask scheduler is lost"),
    ],
)
def test_units_that_do_not_end(
    undisturbed: results.Result, digits: Data, tmp_path: Path, then: str, words: str
) -> None:
    store = tmp_path / "rows.sqlite"
    with (
        DaskLike(stop_after=6, then=then) as executor,
        pytest.raises(ProactError, match=words),
    ):
        run(digits, executor, store)
    with closing(sqlite3.connect(store)) as reader:
        assert reader.execute("SELECT count(*) FROM row").fetchone()[0] >= 1
    with DaskLike() as executor:
        again = run(digits, executor, store)
    assert again.failures() == {}
    assert rows_of(again) == rows_of(undisturbed)
