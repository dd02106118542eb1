"""Does it make no difference to a campaign who runs its trials, even where they die of it?"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from frail import Frail

from conftest import slow
from proact import ProactError, campaign, results
from proact.campaign import executors
from proact.data import Data
from proact.faults import BitFlip
from result_rows import rows_of

pytestmark = pytest.mark.long

FAULTS = [BitFlip(1e-3), BitFlip(1e-2, bits="sign")]
OPTIONS: dict[str, Any] = {"trials": 60, "images_per_trial": 16, "seed": 5}


def assert_same(one: results.Result, other: results.Result) -> None:
    assert rows_of(one) == rows_of(other)
    pd.testing.assert_frame_equal(one.to_pandas(True), other.to_pandas(True), check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, digits: Data
) -> tuple[results.Result, results.Result]:
    """With a number of trials, and until a margin is reached."""
    model = Frail(tmp_path_factory.mktemp("model"))
    pair = (digits.test.images, digits.test.labels)
    return (
        campaign.run({"m": model}, pair, FAULTS, executor=1, **OPTIONS),
        campaign.run(
            {"m": model}, pair, FAULTS, executor=1, margin=0.04, images_per_trial=16, seed=5
        ),
    )


def spawned(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture
def dask_client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_threads_and_processes_give_the_same(
    undisturbed: tuple[results.Result, results.Result], digits: Data, tmp_path: Path
) -> None:
    fixed, until_margin = undisturbed
    model = Frail(tmp_path)
    assert until_margin.cells[0].trials > 1
    with ThreadPoolExecutor(2) as threads, spawned(2) as processes:
        executors: list[Executor | int] = [threads, processes, 2]
        for executor in executors:
            again = campaign.run(
                {"m": model}, digits, FAULTS, executor=executor, margin=0.04, images_per_trial=16,
                seed=5,
            )  # fmt: skip
            assert_same(until_margin, again)
        again = campaign.run({"m": model}, digits, FAULTS, executor=processes, **OPTIONS)
        assert_same(fixed, again)
        # They stay their owner's.
        assert threads.submit(int, "3").result() == processes.submit(int, "3").result() == 3


@pytest.mark.filterwarnings("ignore::Warning:distributed")
def test_dask_gives_the_same(
    undisturbed: tuple[results.Result, results.Result],
    digits: Data,
    tmp_path: Path,
    dask_client: Any,
) -> None:
    fixed, until_margin = undisturbed
    noting = Frail(tmp_path, "note")
    executor = dask_client.get_executor()
    again = campaign.run({"m": noting}, digits, FAULTS, executor=executor, **OPTIONS)
    assert_same(fixed, again)
    loads = noting.loads()
    assert 1 <= len(loads) <= 2
    assert set(loads.values()) == {1}, "each worker unpickles the job once"
    model = Frail(tmp_path, "forward", times=1)
    again = campaign.run(
        {"m": model}, digits, FAULTS, executor=executor, margin=0.04, images_per_trial=16, seed=5
    )
    assert model.deaths()
    assert_same(until_margin, again)


@pytest.mark.parametrize("kind", ["local", *slow("pool")])
def test_the_job_goes_to_each_process_once_and_threads_are_divided(
    digits: Data, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "cores", lambda: 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    model = Frail(tmp_path, "note")
    options = {**OPTIONS, "trials": 1500}
    if kind == "local":
        campaign.run({"m": model}, digits, FAULTS, executor=2, **options)
        assert model.threads() == {3}
        assert len(model.loads()) <= 2
    else:
        with spawned(2) as pool:
            campaign.run({"m": model}, digits, FAULTS, executor=pool, **options)
            workers = set(pool._processes)
        assert model.threads() == {3}
        assert set(model.loads()) <= workers
    assert set(model.loads().values()) == {1}


def test_threads_of_local_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for have, use, processes, expected in ((8, 8, 2, 4), (8, 2, 2, 1), (2, 8, 4, 1), (9, 9, 4, 2)):
        monkeypatch.setattr(executors, "cores", lambda have=have: have)
        monkeypatch.setattr(torch, "get_num_threads", lambda use=use: use)
        assert executors.threads_each(processes) == expected


SCRIPT = """
import torch
from torch import nn
from proact import campaign, data
from proact.faults import BitFlip

torch.set_num_threads(1)
print("start")

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return helper(self.linear(x.flatten(1)))

def helper(x):
    return 2 * x

def main(executor):
    torch.manual_seed(0)
    return campaign.run({"m": Mine()}, data.load("digits"), [BitFlip(1e-3)], trials=20,
                        images_per_trial=16, executor=executor)
"""
COMPARE = """
one, two = (main(executor) for executor in (1, 2))
assert one.to_pandas().equals(two.to_pandas())
print("end", len(two.rows("m", BitFlip(1e-3))))
"""


@pytest.mark.parametrize("has_guard", [pytest.param(True, marks=pytest.mark.slow), False])
def test_scripts_with_their_own_network(tmp_path: Path, has_guard: bool) -> None:
    script = tmp_path / "script.py"
    indented = COMPARE.replace("\n", "\n    ").rstrip(" ")
    end = f'if __name__ == "__main__":{indented}' if has_guard else COMPARE
    script.write_text(SCRIPT + end)
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["start", "end", "20"], "and it ran once"


def test_an_executor_that_takes_no_work(digits: Data, tmp_path: Path) -> None:
    store, model = tmp_path / "rows.sqlite", Frail(tmp_path)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    wrong: list[tuple[Any, type[Exception], str]] = [
        (pool, ProactError, "the executor does not accept work: cannot schedule new futures"),
        (0, ValueError, "executor: expected at least 1 process, got 0"),
        (-2, ValueError, "got -2"),
        (1_000_000, ValueError, "executor: expected at most .* cores, got 1000000"),
        ("two", TypeError, "got str"),
        (True, TypeError, "got bool"),
        (2.0, TypeError, "got float"),
    ]
    for executor, error, words in wrong:
        with pytest.raises(error, match=words):
            campaign.run({"m": model}, digits, FAULTS, executor=executor, store=store, **OPTIONS)
        assert not store.exists()


def test_a_killed_worker_costs_its_unit_and_no_row(
    undisturbed: tuple[results.Result, results.Result], digits: Data, tmp_path: Path
) -> None:
    model = Frail(tmp_path, "forward", times=1)
    again = campaign.run({"m": model}, digits, FAULTS, executor=2, **OPTIONS)
    assert model.deaths()
    assert again.failures() == {}
    assert_same(undisturbed[0], again)


def test_a_pool_that_breaks_is_a_sentence_and_what_is_done_is_kept(
    undisturbed: tuple[results.Result, results.Result], digits: Data, tmp_path: Path
) -> None:
    path, model = tmp_path / "rows.sqlite", Frail(tmp_path, "deadly", times=1)
    with spawned(1) as pool:
        with pytest.raises(ProactError, match="the executor does not accept") as caught:
            campaign.run({"m": model}, digits, FAULTS, executor=pool, store=path, **OPTIONS)
        assert isinstance(caught.value.__cause__, BrokenProcessPool)
    again = campaign.run({"m": model}, digits, FAULTS, executor=1, store=path, **OPTIONS)
    assert again.failures() == {}
    assert_same(undisturbed[0], again)


def test_an_executor_shut_down_under_way(
    undisturbed: tuple[results.Result, results.Result], digits: Data, tmp_path: Path
) -> None:
    path, model = tmp_path / "rows.sqlite", Frail(tmp_path)
    pool = ThreadPoolExecutor(1)

    def close(progress: campaign.CampaignProgress) -> None:
        if progress.done:
            pool.shutdown(wait=False, cancel_futures=True)

    # More units than can be under way.
    more = [*FAULTS, *(BitFlip(1e-3 * factor) for factor in range(2, 12))]
    with pytest.raises(ProactError, match="the executor does not accept"):
        campaign.run(
            {"m": model}, digits, more, executor=pool, store=path, progress=close, **OPTIONS
        )
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM row").fetchone()[0] >= 1
    again = campaign.run({"m": model}, digits, FAULTS, executor=1, store=path, **OPTIONS)
    assert again.failures() == {}
    assert_same(undisturbed[0], again)


def test_workers_end_with_the_campaign(digits: Data, tmp_path: Path) -> None:
    class Stopped(BaseException):
        pass

    pids: list[int] = []

    def stop(progress: campaign.CampaignProgress) -> None:
        pids.extend(child.pid or 0 for child in multiprocessing.active_children())
        if progress.done:
            raise Stopped

    model = Frail(tmp_path)
    with pytest.raises(Stopped):
        campaign.run({"m": model}, digits, FAULTS, executor=2, progress=stop, **OPTIONS)
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_sweeps_go_on_where_a_round_called_units_off(digits: Data, tmp_path: Path) -> None:
    model = Frail(tmp_path)
    tables = []
    with ThreadPoolExecutor(2) as threads:
        executors: list[Executor | int] = [1, threads, 2]
        for executor in executors:
            sweep = campaign.per_layer(
                model, digits, BitFlip(1e-2), margin=0.03, images_per_trial=16, executor=executor
            )
            tables.append(sweep.to_pandas())
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)
