"""Does a campaign on Dask end in undisturbed rows or in one sentence when a process dies?"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from frail import Frail, deadly_trials
from torch import nn

from proact import ProactError, campaign, results
from proact.campaign import coordinator
from proact.data import Data
from proact.faults import BitFlip
from result_rows import rows_of

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:distributed")]

FAULT = BitFlip(1e-2, bits="sign")
OPTIONS: dict[str, Any] = {"trials": 80, "images_per_trial": 16, "seed": 5}
#: A test that takes longer has hung, in seconds.
HUNG = 200

#: Nannies start a worker anew as a fork of a process that has imported torch, which takes seconds.
PRELOAD = """
import multiprocessing.forkserver
modules = ["distributed", "torch", "proact.campaign"]
multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
multiprocessing.forkserver.ensure_running()
"""


@pytest.fixture(autouse=True)
def _short_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "_MOST_TRIALS", 8)


@pytest.fixture(autouse=True)
def _hang_is_a_failure() -> Iterator[None]:
    def fail(*_: object) -> None:
        pytest.fail(f"hung for {HUNG} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HUNG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Cluster:
    """A scheduler and two workers, each a process of its own.

    Args:
        folder: for logs and the files of workers.
        has_nannies: whether a nanny process restarts each worker that dies.
    """

    def __init__(self, folder: Path, has_nannies: bool = True) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.folder, self.has_nannies = folder, has_nannies
        self.processes: list[subprocess.Popen[bytes]] = []
        preload = folder / "preload_nanny.py"
        preload.write_text(PRELOAD)
        self.preload = ["--preload-nanny", str(preload)] if has_nannies else []
        self.start()

    def start(self) -> None:
        place = ["--host", "127.0.0.1"]
        self.scheduler = self._run("scheduler", *place, "--port", str(self.port))
        nanny = "--nanny" if self.has_nannies else "--no-nanny"
        self.worker = self._run(
            "worker", self.address, *place, nanny, "--nworkers", "2", "--nthreads", "1",
            "--local-directory", str(self.folder), *self.preload,
        )  # fmt: skip

    def _run(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "dask.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", kind, "--no-dashboard", *arguments],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
                },
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    @contextmanager
    def client(self) -> Iterator[Any]:
        with distributed.Client(self.address, timeout="60s") as client:
            client.wait_for_workers(2, timeout=60)
            yield client

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dask"))
    with ExitStack() as stack:
        stack.callback(made.close)
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> results.Result:
    return run(Frail(tmp_path_factory.mktemp("model")), digits, 1)


def run(model: nn.Module, digits: Data, executor: Any, **more: Any) -> results.Result:
    return campaign.run({"m": model}, digits, [FAULT], executor=executor, **{**OPTIONS, **more})


def after(trials: int, act: Callable[[], object]) -> Callable[[campaign.CampaignProgress], None]:
    """A progress callback that acts once, when so many trials are done."""
    waiting = [act]

    def watch(progress: campaign.CampaignProgress) -> None:
        if waiting and progress.done >= trials:
            waiting.pop()()

    return watch


def stored(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as reader:
        (number,) = reader.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(number)


def kill_workers(client: Any) -> None:
    for pid in client.run(os.getpid, on_error="ignore").values():
        os.kill(pid, signal.SIGKILL)


def test_killed_workers(
    undisturbed: results.Result, digits: Data, tmp_path: Path, cluster: Cluster
) -> None:
    with cluster.client() as client:
        watches = [after(trials, lambda: kill_workers(client)) for trials in (1, 30, 60)]
        result = run(
            Frail(tmp_path, pause=0.05), digits, client.get_executor(),
            progress=lambda progress: [watch(progress) for watch in watches],
        )  # fmt: skip
    assert result.failures() == {}
    assert rows_of(result) == rows_of(undisturbed)


def test_a_trial_that_ends_every_worker(
    undisturbed: results.Result, digits: Data, tmp_path: Path, cluster: Cluster
) -> None:
    deadly = deadly_trials(tmp_path, FAULT, OPTIONS["seed"], OPTIONS["trials"])
    with cluster.client() as client:
        result = run(Frail(tmp_path, "deadly"), digits, client.get_executor())
    ((cell, failed),) = result.failures().items()
    assert [trial for trial, _ in failed] == deadly
    assert all("KilledWorker" in reason for _, reason in failed)
    expected = [row for row in rows_of(undisturbed)[cell] if row.trial not in deadly]
    assert rows_of(result)[cell] == expected


def test_workers_that_die_of_the_job(digits: Data, tmp_path: Path, cluster: Cluster) -> None:
    model, store = Frail(tmp_path, "start"), tmp_path / "rows.sqlite"
    with (
        cluster.client() as client,
        pytest.raises(ProactError, match="workers die before the first trial"),
    ):
        run(model, digits, client.get_executor(), store=store)
    assert model.deaths() == 4, "Dask tries so many workers"
    assert stored(store, "failure") == 0


def restart(cluster: Cluster) -> None:
    cluster.scheduler.kill()
    cluster.scheduler.wait()
    cluster.start()


ENDS: dict[str, Callable[[Cluster, Any], object]] = {
    "scheduler killed": lambda cluster, client: cluster.scheduler.kill(),
    "client closed": lambda cluster, client: client.close(),
    "workers restarted": lambda cluster, client: client.restart(),
    "scheduler restarted": lambda cluster, client: restart(cluster),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_scheduler_goes_away(
    undisturbed: results.Result, digits: Data, tmp_path: Path, cluster: Cluster, end: str
) -> None:
    store = tmp_path / "rows.sqlite"
    with cluster.client() as client, pytest.raises(ProactError, match="it continues from"):
        run(
            Frail(tmp_path, pause=0.05), digits, client.get_executor(), store=store,
            progress=after(1, lambda: ENDS[end](cluster, client)),
        )  # fmt: skip
    assert stored(store, "row") >= 1
    assert stored(store, "failure") == 0
    again = run(Frail(tmp_path), digits, 1, store=store)
    assert again.failures() == {}
    assert rows_of(again) == rows_of(undisturbed)
