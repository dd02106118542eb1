"""Does a store alone give the result of the campaign that filled it, also of an interrupted one?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from interrupted_runs import Interrupt, run_and_interrupt
from torch import nn

from conftest import slow
from proact import ProactError, campaign, protect
from proact.campaign import CampaignProgress
from proact.campaign.coordinator import Coordinator
from proact.data import Data
from proact.faults import ActivationFlip, BitFlip, ExactFlips
from proact.results import Result, read
from proact.results.cells import CellSpec
from proact.results.run_log import RunSpec
from proact.results.schema import SCHEMA_VERSION
from proact.results.statistics import Prior, Trials
from proact.results.store import Row, Store
from proact.results.stratum import Stratum, stratum

FAULTS = [
    BitFlip(1e-5),
    BitFlip(1e-4),
    BitFlip(1e-4, bits="sign"),
    ExactFlips(3),
    ActivationFlip(1e-4),
]
#: Where "auto" and a pilot would take their time.
OPTIONS: dict[str, Any] = {"encoding": "q15.16", "images_per_trial": 16, "executor": 1, "seed": 3}


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return {
        "relu": trained_cnn,
        "ranger": protect.protect(trained_cnn, "ranger", digits, mode="zero"),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.sqlite"


def python(script: str, *arguments: str) -> str:
    """Runs a script in a new process and returns what it prints."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def only(store: Path) -> Result:
    (stored,) = read(store)
    return stored


def replayed(result: Result) -> Result:
    """The same run without the numbers of trials that were recorded when it was finished."""
    return replace(result, spec=replace(result.spec, stopped=()))


def rows_in(path: Path) -> dict[tuple[int, int], int]:
    """The number of stored rows of each (variant, fault), counted by sqlite3 alone."""
    with closing(sqlite3.connect(path)) as reader:
        counted = reader.execute("SELECT variant, fault, count(*) FROM row GROUP BY 1, 2")
        return {(variant, fault): count for variant, fault, count in counted}


def rows_of(result: Result, variant: str, fault: str) -> list[Row]:
    """The rows of all strata."""
    strata = result.cell(variant, fault).sampled_strata
    return [row for stratum in strata for row in result.rows(variant, fault, stratum)]


def assert_same(stored: Result, live: Result) -> None:
    """Everything that both results hold is equal, and follows from the rows of a campaign alone."""
    assert stored.number == live.number
    assert stored.spec == live.spec
    assert stored.is_finished
    assert stored.cells == live.cells
    pd.testing.assert_frame_equal(stored.to_pandas(), live.to_pandas(), check_exact=True)
    assert stored.details() == live.details()
    assert stored.details().keys() == {names for names in live.states if rows_of(live, *names)}
    assert stored.failures() == live.failures()
    baseline, *others = live.clean
    for other in others:
        gains = stored.difference(other, baseline)
        assert gains == live.difference(other, baseline)
        assert gains.keys() == {
            fault
            for variant, fault in live.states
            if variant == other and rows_of(live, other, fault) and rows_of(live, baseline, fault)
        }
    for names in live.states:
        assert sum(share for _, share in stored.values(*names)) == pytest.approx(
            1.0 if rows_of(live, *names) else 0.0
        )
        if live.cell(*names).strata:
            continue
        values = [row.value for row in live.rows(*names)]
        shares = {value: values.count(value) / len(values) for value in values}
        assert dict(stored.values(*names)) == pytest.approx(shares)
    if live.spec.kind == "campaign":
        again = replayed(stored)
        assert again.is_finished
        assert again.cells == live.cells


@pytest.mark.long
@pytest.mark.parametrize(
    "goal",
    [
        {"margin": 0.08},
        *slow(
            {"trials": 20, "metric": "sdc", "images_per_trial": "all"},
            {"trials": 20},
            {"margin": 0.02, "trials": 40},
            {"trials": 20, "metric": "loss"},
        ),
    ],
    ids=str,
)
def test_a_store_gives_the_result_of_its_campaign(
    goal: dict[str, Any], variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    live = campaign.run(variants, digits, FAULTS, store=path, **{**OPTIONS, **goal})
    stored, run = only(path), only(path).spec
    assert_same(stored, live)
    assert {variant.name: variant.clean for variant in run.variants} == live.clean
    assert (run.kind, run.margin, run.trials) == (
        "campaign", goal.get("margin"), goal.get("trials")
    )  # fmt: skip
    assert (run.metric, run.is_better_higher) == (
        goal.get("metric", "top-1"), "metric" not in goal
    )  # fmt: skip
    assert (run.encoding, run.seed, run.images) == ("q15.16", 3, len(digits.test.labels))
    assert run.images_per_trial == (None if "images_per_trial" in goal else 16)
    assert [session.outcome for session in stored.sessions] == ["finished"]
    assert stored.sessions[0].rows == sum(rows_in(path).values())


def test_failed_trials(digits: Data, path: Path) -> None:
    class Fails(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.equal(self[1].bias, torch.ones(10)):
                raise ArithmeticError("no such bias")
            return super().forward(x)

    torch.manual_seed(0)
    model = Fails(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].bias.fill_(1.0)
    live = campaign.run(
        {"m": model}, digits, [BitFlip(1e-3)], trials=40, store=path, on_error="exclude", **OPTIONS
    )
    assert 0 < live.cells[0].failed < 40
    assert_same(only(path), live)


def test_a_family_is_a_fault_without_its_rate(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    campaign.run(variants, digits, FAULTS, trials=2, store=path, **OPTIONS)
    cells = [cell for cell in only(path).spec.cells if cell.variant == "relu"]
    assert {cell.fault: cell.family for cell in cells} == {
        str(FAULTS[0]): "BitFlip",
        str(FAULTS[1]): "BitFlip",
        str(FAULTS[2]): "BitFlip(bits=sign)",
        str(FAULTS[3]): "ExactFlips",
        str(FAULTS[4]): "ActivationFlip",
    }
    for cell in cells:
        is_transient = cell.family == "ActivationFlip"
        assert (cell.bits is None) == is_transient
        assert cell.is_clean_without_flips != is_transient


@pytest.mark.long
@pytest.mark.parametrize("goal", [{"trials": 300}, *slow({"margin": 0.08})], ids=str)
def test_a_store_gives_the_strata_of_a_sweep(
    goal: dict[str, Any], trained_cnn: nn.Module, digits: Data, path: Path
) -> None:
    options = {"images_per_trial": 16, "encoding": "q15.16", "executor": 1, "store": path, **goal}
    by_layer = campaign.per_layer(trained_cnn, digits, name="cnn", **options)
    by_bit = campaign.per_bit(trained_cnn, digits, name="cnn", **options)
    kinds = ("layer", "bit")
    for kind, stored, sweep in zip(kinds, read(path), (by_layer, by_bit), strict=True):
        assert (stored.strata, stored.whole) == (sweep.strata, sweep.whole)
        assert (stored.spec.kind, stored.spec.variants[0].name) == (kind, "cnn")
        assert {cell.family for cell in stored.spec.cells} == {"ExactFlips(1)"}
        assert sum(cell.share or 0.0 for cell in stored.spec.cells) == pytest.approx(1.0)
        assert_same(stored, sweep)
        counted = [rows_in(path)[cell.key] for cell in stored.spec.cells]
        assert counted == [part.trials for part in stored.strata]
        assert counted == [cell.trials for cell in stored.cells]
    fields = {cell.part: cell.field for cell in read(path)[1].spec.cells}
    assert (fields["31"], fields["16"], fields["15"]) == ("sign", "integer", "fraction")


@pytest.mark.long
def test_reading_imports_no_torch(
    variants: dict[str, nn.Module], digits: Data, path: Path, tmp_path: Path
) -> None:
    campaign.run(variants, digits, FAULTS[:2], trials=3, store=path, **OPTIONS)
    script = """
import sys
from proact.results import read
(stored,) = read(sys.argv[1])
stored.cells, stored.details(), stored.difference("ranger", "relu"), stored.failures()
early = {"torch", "matplotlib"} & set(sys.modules)
import warnings
# An older matplotlib uses what a newer pyparsing deprecates.
warnings.filterwarnings("ignore", module="matplotlib|pyparsing")
from proact.report import write_report
write_report(sys.argv[1], sys.argv[2])
print(sorted(early), "torch" in sys.modules)
"""
    assert python(script, str(path), str(tmp_path / "report")) == "[] False\n"


def test_an_interrupted_run_with_a_number_of_trials(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    options = {"trials": 30, "store": path, **OPTIONS}
    run_and_interrupt(50, variants, digits, FAULTS[:2], **options)
    begun = only(path)
    assert not begun.is_finished
    assert begun.spec.stopped == ()
    per_cell = rows_in(path)
    assert 50 <= sum(per_cell.values()) < 120
    for cell, planned in zip(begun.cells, _by_variant(begun), strict=True):
        state = begun.states[planned.variant, planned.fault]
        assert (cell.variant, cell.fault) == (planned.variant, planned.fault)
        assert cell.trials == state.target == state.trials == per_cell.get(planned.key, 0)
        assert cell.is_finished == state.is_finished == (cell.trials == 30)
        assert cell.is_missing == (cell.trials == 0)

    live = campaign.run(variants, digits, FAULTS[:2], **options)
    stored = only(path)
    assert_same(stored, live)
    assert stored.number == begun.number
    first, second = stored.sessions
    assert (first.outcome, second.outcome) == ("interrupted", "finished")
    assert first.rows == sum(per_cell.values())
    assert (first.rows or 0) + (second.rows or 0) == 120
    assert begun.sessions == [first]
    assert first.started <= (first.ended or "") <= second.started <= (second.ended or "")


def _by_variant(stored: Result) -> list[CellSpec]:
    names = [variant.name for variant in stored.spec.variants]
    return sorted(stored.spec.cells, key=lambda cell: names.index(cell.variant))


@pytest.mark.long
def test_the_stopping_rule_is_replayed(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    faults = [BitFlip(1e-9), BitFlip(1e-5), BitFlip(1e-3)]
    options = {"margin": 0.05, "strata": True, "store": path, **OPTIONS}
    run_and_interrupt(100, variants, digits, faults, **options)
    begun = only(path)
    finished = targets(begun, only_finished=True)
    live = campaign.run(variants, digits, faults, **options)
    stored = only(path)
    assert_same(stored, live)
    in_the_end: dict[tuple[str, str], int] = {}
    for cell, trials in zip(stored.spec.cells, stored.spec.stopped, strict=True):
        names = (cell.variant, cell.fault)
        in_the_end[names] = in_the_end.get(names, 0) + trials
    assert any(cell.stratum is not None for cell in stored.spec.cells)
    # Some cells were finished and some were not; those that were keep their number of trials.
    assert 0 < len(finished) < len(in_the_end)
    assert finished.items() <= in_the_end.items()
    # The rarest faults need no trial: their cells are finished without one, and not missing.
    rarest = [cell for cell in begun.cells if cell.ber == 1e-9]
    assert [(c.trials, c.is_finished, c.is_missing) for c in rarest] == [(0, True, False)] * 2
    # Without the numbers that the end recorded, the rows alone decide where each cell stopped.
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("UPDATE run SET description = ?", (begun.spec.to_json(),))
    from_rows = only(path)
    assert from_rows.spec.stopped == ()
    assert from_rows.is_finished
    assert targets(from_rows) == in_the_end
    assert from_rows.cells == stored.cells


def targets(result: Result, only_finished: bool = False) -> dict[tuple[str, str], int]:
    """The number of trials that each cell's result uses."""
    return {
        names: state.target
        for names, state in result.states.items()
        if state.is_finished or not only_finished
    }


@pytest.mark.parametrize("goal", [{"trials": 12}, {"margin": 0.1}], ids=str)
def test_another_confidence_widens_the_intervals_of_the_same_trials(
    goal: dict[str, Any], variants: dict[str, nn.Module], digits: Data
) -> None:
    result = campaign.run(variants, digits, [BitFlip(1e-3)], **OPTIONS, **goal)
    strict, same = result.at_confidence(0.999), result.at_confidence(result.confidence)
    assert same.cells == result.cells
    for mine, wider in zip(result.cells, strict.cells, strict=True):
        assert (wider.trials, wider.value.estimate) == (mine.trials, mine.value.estimate)
        assert wider.value.low < mine.value.low
        assert wider.value.high >= mine.value.high
    first, second = result.clean
    gains = zip(
        result.difference(second, first).values(),
        strict.difference(second, first).values(),
        strict=True,
    )
    assert all(wider.half_width > mine.half_width for mine, wider in gains)
    with pytest.raises(ValueError, match="confidence lies in"):
        result.at_confidence(1.0)


def test_a_sweep_that_is_interrupted(trained_cnn: nn.Module, digits: Data, path: Path) -> None:
    options = {"images_per_trial": 16, "encoding": "q15.16", "executor": 1, "store": path}
    with pytest.raises(KeyboardInterrupt):
        campaign.per_layer(trained_cnn, digits, trials=300, progress=Interrupt(60), **options)
    begun = only(path)
    assert not begun.is_finished
    parts = begun.strata
    assert 60 <= sum(part.trials for part in parts) < 300
    # A layer without trials may have any value.
    assert {(part.value.low, part.value.high) for part in parts if not part.trials} <= {(0, 1)}
    sweep = campaign.per_layer(trained_cnn, digits, trials=300, **options)
    stored = only(path)
    assert (stored.strata, stored.whole) == (sweep.strata, sweep.whole)
    assert [session.outcome for session in stored.sessions] == ["interrupted", "finished"]


def test_a_finished_run_stays_finished(
    trained_cnn: nn.Module, digits: Data, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"images_per_trial": 16, "encoding": "q15.16", "executor": 1, "store": path}
    sweep = campaign.per_layer(trained_cnn, digits, trials=60, **options)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Coordinator, "work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        campaign.per_layer(trained_cnn, digits, trials=60, **options)
    stored = only(path)
    assert stored.is_finished
    assert (stored.strata, stored.whole) == (sweep.strata, sweep.whole)
    assert [session.outcome for session in stored.sessions] == ["finished", "interrupted"]


def test_a_part_in_which_every_trial_failed_is_missing() -> None:
    def part(values: list[float], failed: int) -> Stratum:
        seen = np.array(values)
        trials = Trials(seen, np.ones_like(seen), np.ones_like(seen), failed=failed)
        return stratum("conv1", 1.0, trials, Prior(clean=1.0), 0.95, better_higher=True)

    assert part([], 3).is_missing
    assert part([], 0).is_missing
    assert not part([0.5], 3).is_missing
    assert (part([0.5], 3).trials, part([0.5], 3).failed) == (4, 3)


def test_an_error_ends_a_session(variants: dict[str, nn.Module], digits: Data, path: Path) -> None:
    def refuse(progress: CampaignProgress) -> None:
        if progress.cells:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        campaign.run(variants, digits, FAULTS[:1], trials=5, store=path, progress=refuse, **OPTIONS)
    (session,) = only(path).sessions
    assert session.outcome == "OSError: no room"
    assert session.ended is not None


@pytest.mark.long
def test_a_process_that_is_killed_leaves_an_open_session(path: Path) -> None:
    script = """
import os, signal, sys
import torch
from torch import nn
from proact import campaign, data
from proact.faults import BitFlip

torch.set_num_threads(1)
torch.manual_seed(0)
kill = lambda progress: progress.done >= 10 and os.kill(os.getpid(), signal.SIGKILL)
campaign.run(
    {"a": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, data.load("digits"), [BitFlip(1e-4)],
    trials=5000, store=sys.argv[1], images_per_trial=16, executor=1, progress=kill,
)
"""
    with pytest.raises(subprocess.CalledProcessError) as killed:
        python(script, str(path))
    assert killed.value.returncode == -signal.SIGKILL
    stored = only(path)
    (session,) = stored.sessions
    assert (session.ended, session.outcome, session.rows) == (None, None, None)
    assert 10 <= stored.cells[0].trials < 5000


def test_a_result_in_memory_is_read_in_another_thread(
    variants: dict[str, nn.Module], digits: Data
) -> None:
    result = campaign.run(variants, digits, FAULTS[:1], trials=2, **OPTIONS)
    with ThreadPoolExecutor(1) as thread:
        rows = thread.submit(result.rows, "relu", FAULTS[0]).result()
    assert len(rows) == 2
    assert rows == result.rows("relu", FAULTS[0])


def test_sessions_record_their_environment(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, **OPTIONS)
    environment = only(path).sessions[0].environment
    assert environment["torch"] == version("torch")
    assert environment["threads"] == torch.get_num_threads()
    assert environment["device"] == "cpu"
    assert environment["cores"] == os.cpu_count()
    others = {"proact", "numpy", "scipy", "python", "system", "processor", "isa"}
    assert environment.keys() >= others


def test_runs_differ_by_their_specification(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    options = {"store": path, **OPTIONS}
    goals: list[dict[str, Any]] = [{"trials": 4}, {"trials": 6}, {"margin": 0.2}, {"margin": 0.3}]
    for goal in [*goals, goals[0]]:
        campaign.run(variants, digits, FAULTS[:1], **goal, **options)
    campaign.run(variants, digits, FAULTS[:1], trials=4, confidence=0.9, **options)
    campaign.run(variants, digits, FAULTS[:1], trials=4, name="named", **options)
    runs = read(path)
    # The first was worked on again, after the fourth.
    assert [stored.number for stored in runs] == [2, 3, 4, 1, 5, 6]
    assert [len(stored.sessions) for stored in runs] == [1, 1, 1, 2, 1, 1]
    assert [stored.spec.confidence for stored in runs] == [0.95] * 4 + [0.9, 0.95]
    assert runs[-1].spec.name == "named"
    # They share rows: most of the later ones found all of theirs.
    assert [session.rows for session in runs[3].sessions] == [8, 0]


def test_notes_are_kept(variants: dict[str, nn.Module], digits: Data, path: Path) -> None:
    notes = {"experiment": {"model": "small-cnn", "data": "digits"}, "mine": [1, None, "é"]}
    for given in ({}, notes):
        campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, notes=given, **OPTIONS)
    assert only(path).spec.notes == notes, "the last ones"
    with pytest.raises(TypeError, match="JSON"):
        campaign.run(variants, digits, FAULTS[:1], trials=2, notes={"a": {1, 2}}, **OPTIONS)


def test_memory_is_counted_by_kind(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, **OPTIONS)
    relu, ranger = only(path).spec.variants
    assert sum(kind.numbers for kind in relu.memory.values()) == sum(
        parameter.numel() for parameter in variants["relu"].parameters()
    )
    assert "threshold" not in relu.memory
    cost = protect.cost(variants["ranger"], digits, "q15.16")
    assert ranger.memory["threshold"].numbers == cost.thresholds > 0
    assert ranger.memory["threshold"].bits == 8 * cost.bytes


def make_older(path: Path) -> None:
    """Makes a store of version 2, which had no runs and sessions."""
    with closing(sqlite3.connect(path)) as writer, writer:
        for table in ("session", "run"):
            writer.execute(f"DROP TABLE {table}")
        writer.execute("ALTER TABLE row DROP COLUMN raised")
        writer.execute("PRAGMA user_version = 2")


def test_a_store_of_an_older_version(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    options = {"trials": 4, "store": path, **OPTIONS}
    before = campaign.run(variants, digits, FAULTS[:1], **options)
    make_older(path)
    content = path.read_bytes()
    assert read(path) == []
    assert path.read_bytes() == content, "reading changes nothing"
    live = campaign.run(variants, digits, FAULTS[:1], **options)
    stored = only(path)
    assert_same(stored, live)
    assert live.cells == before.cells
    assert stored.sessions[0].rows == 0
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_store_without_later_columns_is_read_as_it_is(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    live = campaign.run(variants, digits, FAULTS[:1], trials=4, store=path, **OPTIONS)
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("ALTER TABLE row DROP COLUMN raised")
        writer.execute("PRAGMA user_version = 3")
    content = path.read_bytes()
    assert_same(only(path), live)
    assert path.read_bytes() == content
    again = campaign.run(variants, digits, FAULTS[:1], trials=4, store=path, **OPTIONS)
    assert again.cells == live.cells


def older_json(spec: RunSpec) -> str:
    """The description of a run as the first stores of version 3 hold it."""
    values = json.loads(spec.to_json())
    for described, trials in zip(values["cells"], values.pop("stopped") or [], strict=False):
        described["trials"] = trials
    for described in values["cells"]:
        described.setdefault("trials", None)
    for described in values["variants"]:
        described["network"] = described.pop("model_class")
    return json.dumps(values)


def test_a_run_that_an_older_version_described(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    live = campaign.run(variants, digits, FAULTS[:2], margin=0.2, store=path, **OPTIONS)
    for spec in (live.spec, replayed(live).spec):
        with closing(sqlite3.connect(path)) as writer, writer:
            writer.execute("UPDATE run SET description = ?", (older_json(spec),))
        stored = only(path)
        assert stored.spec == spec
        assert stored.cells == live.cells


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION + 1])
def test_stores_of_unknown_versions(version: int, path: Path) -> None:
    Store(path).close()
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(ProactError, match=f"store version {version}, this proact reads"):
        read(path)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(ProactError, match="there is no store"):
        read(tmp_path / "rows.sqlite")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProactError, match="is a folder: expected a store"):
        read(tmp_path)
    (tmp_path / "text").write_text("no rows here, and longer than a header")
    with pytest.raises(ProactError, match="not an SQLite file"):
        read(tmp_path / "text")
    Store(tmp_path / "empty").close()
    assert read(tmp_path / "empty") == []


def test_paths_with_special_characters(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    path = tmp_path / "a b?mode=memory#x%20ü.sqlite"
    live = campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, **OPTIONS)
    assert_same(only(path), live)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users may enter, as pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="proact-stored-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def read_as_nobody(path: Path) -> str:
    """Reads a store in a process that may write nothing: its trials by cell, or the error."""
    script = """
import os, sys
import numpy, scipy.optimize, scipy.special, scipy.stats
from proact.results import read
from proact.results import result, run_log, statistics, store, stored_json
stored_json.adapter_of(run_log.RunSpec)
if not os.getuid():
    # Python itself may lie where other users cannot read: everything is imported by now.
    os.setuid(65534)
try:
    (stored,) = read(sys.argv[1])
    print([cell.trials for cell in stored.cells])
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
    return python(script, str(path)).strip()


def test_a_store_where_nothing_may_be_written(
    variants: dict[str, nn.Module], digits: Data, reachable: Path
) -> None:
    path = reachable / "rows.sqlite"
    campaign.run(variants, digits, FAULTS[:1], trials=3, store=path, **OPTIONS)
    path.chmod(0o444)
    reachable.chmod(0o555)
    before = sorted(reachable.iterdir())
    assert read_as_nobody(path) == "[3, 3]"
    assert sorted(reachable.iterdir()) == before


def test_a_log_that_nobody_merged_where_nothing_may_be_written(
    variants: dict[str, nn.Module], digits: Data, reachable: Path, path: Path
) -> None:
    """As a campaign that was killed leaves it, copied into an archive."""
    campaign.run(variants, digits, FAULTS[:1], trials=3, store=path, **OPTIONS)
    with Store(path) as held:
        campaign.run(variants, digits, FAULTS[:1], trials=5, store=path, **OPTIONS)
        log = path.with_name("rows.sqlite-wal")
        assert log.stat().st_size > 0
        for file in (path, log):
            shutil.copy(file, reachable)
            (reachable / file.name).chmod(0o444)
        assert held.number("SELECT count(*) FROM row") == 10
    reachable.chmod(0o555)
    output = read_as_nobody(reachable / "rows.sqlite")
    # Never left out in silence.
    assert output.startswith(f"ProactError: the store {reachable}/rows.sqlite has rows in "), output
    assert "copy both" in output


def test_a_store_that_is_being_written(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    seen: list[int] = []
    script = """
import sys
from proact.results import read
(stored,) = read(sys.argv[1])
assert not stored.is_finished
print(sum(cell.trials for cell in stored.cells), stored.sessions[0].outcome)
"""

    def look(progress: CampaignProgress) -> None:
        if progress.done >= 20 * (len(seen) + 1) and len(seen) < 2:
            trials, outcome = python(script, str(path)).split()
            assert outcome == "None"
            seen.append(int(trials))

    live = campaign.run(
        variants, digits, FAULTS[:2], trials=30, store=path, progress=look, **OPTIONS
    )
    assert len(seen) == 2
    assert 20 <= seen[0] < seen[1] < 120
    assert_same(only(path), live)


def test_a_store_in_memory(variants: dict[str, nn.Module], digits: Data) -> None:
    live = campaign.run(variants, digits, FAULTS[:2], trials=3, **OPTIONS)
    (stored,) = read(live._store)
    assert_same(stored, live)


def test_unknown_names(variants: dict[str, nn.Module], digits: Data, path: Path) -> None:
    campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, **OPTIONS)
    stored = only(path)
    for names in (("fitact", "relu"), ("relu", "fitact")):
        with pytest.raises(ValueError, match="relu, ranger; got 'fitact'"):
            stored.difference(*names)
    fault = str(FAULTS[0])
    with pytest.raises(ValueError, match="relu, ranger; got 'fitact'"):
        stored.cell("fitact", fault)
    with pytest.raises(ValueError, match=r"BitFlip\(1e-05\).*got 'BitFlip\(0.1\)'"):
        stored.cell("relu", BitFlip(0.1))
    assert stored.cell("relu", FAULTS[0]) == stored.cell("relu", fault) == stored.cells[0]
    assert stored.rows("relu", FAULTS[0]) == stored.rows("relu", fault)


def test_a_campaign_has_no_strata(variants: dict[str, nn.Module], digits: Data, path: Path) -> None:
    campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, **OPTIONS)
    stored = only(path)
    for read_strata in (lambda: stored.strata, lambda: stored.whole):
        with pytest.raises(ValueError, match="strata"):
            read_strata()
