"""Is the number of trials in one pass chosen by measurement, kept, and without effect on rows?"""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from test_trial_groups import same_rows
from torch import nn
from trial_runners import NEEDS_EVEN_KERNELS, images, runner, small_cnn

from conftest import slow
from proact import ProactError, campaign
from proact.campaign import autotune, trials_at_once
from proact.campaign.coordinator import Coordinator
from proact.campaign.executors import InProcess
from proact.campaign.jobs import Job, UnitResult, WorkUnit
from proact.campaign.shared_trials import SharedTrials
from proact.campaign.trial_groups import SEVERAL_TRIALS
from proact.campaign.trials_at_once import fastest_group, measured_fault
from proact.campaign.tuning import Tuning
from proact.campaign.worker_pool import LostWorkerError
from proact.faults import ActivationFlip, BitFlip, ExactFlips, Injector, StuckAt
from proact.results import Policy, Result
from proact.results.cells import CellSpec, CellState
from proact.results.interval_set import IntervalSet
from proact.results.store import Store
from result_rows import rows_of

pytestmark = NEEDS_EVEN_KERNELS

FAULTS = [BitFlip(1e-4), BitFlip(3e-3)]
GROUPS, ALONE = Policy(8, 16, False, 4), Policy(8, 16, False)


@pytest.fixture(scope="module")
def variants() -> dict[str, nn.Module]:
    return {"relu": small_cnn(), "clipped": small_cnn(is_hardened=True)}


def run(variants: dict[str, nn.Module], policy: Policy | None = GROUPS, **options: Any) -> Result:
    made = {"trials": 30, "executor": 1, "policy": policy, **options}
    return campaign.run(variants, images(64), FAULTS, **made)


@pytest.fixture(scope="module")
def grouped(variants: dict[str, nn.Module]) -> Result:
    return run(variants)


def test_campaigns_of_groups_have_the_rows_of_single_trials(
    grouped: Result, variants: dict[str, nn.Module]
) -> None:
    alone = rows_of(run(variants, ALONE))
    assert grouped.policy == GROUPS
    for cell, rows in rows_of(grouped).items():
        same_rows(rows, alone[cell])


def test_an_interrupted_campaign_and_other_executors_have_the_same_rows(
    grouped: Result, variants: dict[str, nn.Module], tmp_path: Path
) -> None:
    store = tmp_path / "rows.sqlite"
    run(variants, store=store, trials=5)
    assert rows_of(run(variants, store=store)) == rows_of(grouped)
    with ThreadPoolExecutor(2) as executor:
        assert rows_of(run(variants, executor=executor)) == rows_of(grouped)


@pytest.mark.parametrize("executor", slow(2))
def test_worker_processes_have_the_same_rows(
    executor: int, grouped: Result, variants: dict[str, nn.Module]
) -> None:
    assert rows_of(run(variants, executor=executor)) == rows_of(grouped)


@pytest.mark.slow
def test_strata_and_pairs(variants: dict[str, nn.Module]) -> None:
    options = {"trials": 60, "margin": 0.1, "strata": True}
    mine, other = (run(variants, policy, **options) for policy in (GROUPS, ALONE))
    assert sum(len(cell.strata) for cell in mine.cells) > 4
    for one, two in zip(mine.cells, other.cells, strict=True):
        assert one.value.estimate == pytest.approx(two.value.estimate, abs=1e-6)
        assert one.trials == two.trials
    assert mine.pairs("clipped", "relu") == other.pairs("clipped", "relu")


def test_a_policy_of_one_trial_is_the_task_of_older_stores() -> None:
    assert ALONE.to_facts() == {"images": 8, "batch": 16, "channels_last": False}
    assert Policy(**ALONE.to_facts()) == ALONE
    assert GROUPS.to_facts() == asdict(GROUPS)
    made = {
        "policy": {"images": None, "batch": 64, "channels_last": True},
        "cost": {"trial": 1.0, "image": 1.0},
        "seconds": {},
    }
    assert Tuning.from_dict(made).policy.trials_at_once == 1
    made["policy"]["trials_at_once"] = 0
    with pytest.raises(ProactError, match="has 0 trials at once, expected at least 1"):
        Tuning.from_dict(made)


def test_a_policy_that_is_none(variants: dict[str, nn.Module]) -> None:
    with pytest.raises(ValueError, match="policy: expected at least 1 trial at once, got 0"):
        run(variants, Policy(8, 16, False, 0))


def test_the_choice_is_measured_once_and_kept(
    variants: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if each size took half of the time of the one before it.
    monkeypatch.setattr(autotune, "_WORTH_IT", 0.9)
    monkeypatch.setattr(
        trials_at_once, "_durations", lambda runners, _: [1.0, 1 / runners[1].policy.trials_at_once]
    )
    monkeypatch.setattr(autotune, "_SHARE", 1e9)
    store = tmp_path / "rows.sqlite"
    options = {"images_per_trial": 8, "store": store, "policy": None, "trials": 5}
    first = run(variants, **options)
    assert first.policy.trials_at_once == 64
    with closing(sqlite3.connect(store)) as reader:
        ((made,),) = reader.execute(
            "SELECT made FROM choice WHERE subject LIKE 'trials at once on 8 images%'"
        )
    assert json.loads(made)["policy"]["trials_at_once"] == 64
    assert json.loads(made)["seconds"]["64 trials at once"] == 1 / 64
    monkeypatch.setattr(autotune, "_WORTH_IT", 0.0)
    again = run(variants, **{**options, "trials": 9})
    assert again.policy == first.policy
    assert [rows[:5] for rows in rows_of(again).values()] == list(rows_of(first).values())


def test_a_campaign_of_an_earlier_version_goes_on_as_it_began(
    variants: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "_SHARE", 1e9)
    store = tmp_path / "rows.sqlite"
    options = {"images_per_trial": 8, "store": store, "policy": None, "trials": 5}
    first = run(variants, **options)
    with closing(sqlite3.connect(store)) as writer, writer:
        writer.execute("DELETE FROM choice WHERE subject LIKE 'trials at once%'")
        changed = writer.execute(
            "UPDATE choice SET made = json_remove(made, '$.policy.trials_at_once')"
        )
        assert changed.rowcount == 1
    monkeypatch.setattr(autotune, "_WORTH_IT", 0.9)
    monkeypatch.setattr(trials_at_once, "_durations", lambda runners, _: [1.0, 0.1])
    again = run(variants, **{**options, "trials": 9})
    assert again.policy == first.policy
    assert again.policy.trials_at_once == 1
    assert [rows[:5] for rows in rows_of(again).values()] == list(rows_of(first).values())


def choose(shares: dict[int, float] | None, **options: Any) -> int:
    """The size that is chosen if a trial takes these shares of its time alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trials_at_once,
            "_durations",
            lambda runners, _: (
                None if shares is None else [1.0, shares[runners[1].policy.trials_at_once]]
            ),
        )
        if "most_bytes" in options:
            patch.setattr(trials_at_once, "_MOST_BYTES", options.pop("most_bytes"))
        made = {"seconds": 1.0, "left": 1e9, "worth_it": 0.9, **options}
        single = made.pop("single", runner(small_cnn(), 1))
        return fastest_group(single, made.pop("faults", FAULTS), **made).size


def test_the_fastest_size_is_chosen() -> None:
    assert choose({16: 0.5, 64: 0.3}) == 64
    assert choose({16: 0.5, 64: 0.48}) == 16
    assert choose({16: 0.95, 64: 0.1}) == 1
    assert choose(None) == 1


def test_what_is_not_worth_its_measurement_is_not_measured() -> None:
    assert choose({}, left=50.0) == 1
    # The larger size is measured at the pace of the smaller one.
    assert choose({16: 0.5, 64: 0.1}, left=100.0) == 16
    assert choose({16: 0.5, 64: 0.1}, left=96.0 + 0.5 * 336.0) == 64
    assert choose({}, left=100.0, variants=2) == 1
    # The cached activations of single trials take time too.
    assert choose({}, left=100.0, single=runner(small_cnn(), 1, None)) == 1


def test_memory_bounds_the_size() -> None:
    needs = trials_at_once._bytes_of_a_trial(runner(small_cnn(), 1))
    parameters = sum(tensor.nbytes for tensor in small_cnn().state_dict().values())
    # The largest output is that of the convolution: 8 images, 5 channels of 4 x 4, in float32. The
    # logits of 4 classes are kept.
    assert needs == parameters + 4 * 8 * 5 * 4 * 4 * 4 + 8 * 4 * 4
    shares = {4: 0.5, 16: 0.3, 64: 0.1}
    assert choose(shares, most_bytes=64 * needs) == 64
    assert choose(shares, most_bytes=64 * needs - 1) == 16
    assert choose(shares, most_bytes=16 * needs - 1) == 4
    assert choose(shares, most_bytes=4 * needs - 1) == 1


def test_the_fault_that_is_measured() -> None:
    injector = Injector(small_cnn())
    assert measured_fault(injector, FAULTS) == FAULTS[1]
    rare = BitFlip(1e-9, bits="exponent", where="0.*")
    assert measured_fault(injector, [rare]) == ExactFlips(3, bits="exponent", where="0.*")
    stuck = StuckAt(0, 1e-2)
    assert measured_fault(injector, [ActivationFlip(0.5), rare, stuck]) == stuck
    assert measured_fault(injector, [ActivationFlip(0.5)]) is None


def test_measurements_are_real() -> None:
    """Without a forced duration: any size can win, and rows are those of the policy."""
    found = fastest_group(runner(small_cnn(), 1), FAULTS, 1e-9, 1e9, 1e9)
    assert found.size == 64
    assert set(found.seconds) == {1, 16, 64}
    assert min(found.seconds.values()) > 0
    found = fastest_group(
        runner(small_cnn(), 1, None), [BitFlip(1e-2, where="7.*")], 1e-9, 1e9, 0.0
    )
    assert found.size == 1
    assert set(found.seconds) == {1, 16}


class Dying(InProcess):
    """Loses its worker whenever one trial runs, alone or among others."""

    def __init__(self, job: Job, trial: int) -> None:
        super().__init__(job)
        self.trial = trial
        self.units: list[WorkUnit] = []

    def submit(self, unit: WorkUnit) -> Future[UnitResult]:
        self.units.append(unit)
        if self.trial not in range(unit.first, unit.end):
            return super().submit(unit)
        future: Future[UnitResult] = Future()
        running = self.trial if len(unit) == 1 else SEVERAL_TRIALS
        future.set_exception(LostWorkerError("its process ended", running))
        return future


def test_a_death_among_several_trials_counts_for_the_one_that_dies_alone() -> None:
    by = runner(small_cnn(), 4)
    job = Job(
        [by.model], [by.clean], FAULTS, by.encoding, by.measurement, by.policy, by.seed
    )  # fmt: skip
    pool = Dying(job, 6)
    with Store(None) as store:
        task = store.task("digest", {})
        variant = store.variant(task, "m", "digest", 40, 0.5, (None, None, None))
        key = (variant, store.fault("f", FAULTS[1].to_dict()))
        spec = CellSpec("m", "f", "f", key, 3e-3, 100, 0.0)
        cell = CellState(spec, IntervalSet(), target=10)
        coordinator = Coordinator(
            store,
            {(0, 1): cell},
            lambda spec: spec.fault,
            pool,
            lambda: None,
            SharedTrials(store, FAULTS, [by.injector], by.seed, {}),
            False,
            4,
        )
        coordinator.work(lambda group: [10])
        assert store.failures(key, 10) == [(6, "the worker was lost: its process ended")]
        assert [row.trial for row in store.rows(key, 10)] == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    lengths = [len(unit) for unit in pool.units]
    assert lengths[0] == 8, "units hold whole groups"
    assert lengths.count(1) >= 8
    assert sum(unit.first == 6 for unit in pool.units if len(unit) == 1) == 3
