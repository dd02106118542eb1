"""Does a store alone tell what the campaign that filled it told, also where it was cut short?"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from proact import ProactError, campaign, protect, results
from proact.campaign.coordinator import Coordinator
from proact.data import Data
from proact.faults import ActivationFlip, BitFlip, ExactFlips
from proact.results import Result, read
from proact.results.schema import SCHEMA_VERSION
from proact.results.statistics import Prior, Trials
from proact.results.store import Store
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


class Interrupt:
    """Of the progress of a campaign: Ctrl-C once there are so many trials."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, done: int, total: int) -> None:
        if done >= self.after:
            raise KeyboardInterrupt


def run_and_interrupt(after: int, *arguments: Any, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        campaign.run(*arguments, progress=Interrupt(after), **options)


def python(script: str, *arguments: str) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def only(store: Path) -> Result:
    (stored,) = read(store)
    return stored


def assert_same(stored: Result, live: results.Result) -> None:
    """All that both of them say; of cells without trials a store tells less."""
    names = {fault: str(fault) for _, fault in live.bers}
    assert stored.number == live.run
    assert stored.is_finished
    assert stored.cells == live.cells
    pd.testing.assert_frame_equal(stored.to_pandas(), live.to_pandas(), check_exact=True)
    assert stored.details() == {
        (variant, names[fault]): told
        for (variant, fault), told in live.details().items()
        if live.rows(variant, fault)
    }
    assert stored.failures() == {
        (variant, names[fault]): told for (variant, fault), told in live.failures().items()
    }
    baseline, *others = live.clean
    for other in others:
        told = live.difference(other, baseline)
        assert stored.difference(other, baseline) == {
            names[fault]: told[fault]
            for fault in told
            if live.rows(other, fault) and live.rows(baseline, fault)
        }
    for (variant, fault), rows in live.rows.items():
        values = [row.value for row in rows]
        found = dict(stored.values(variant, names[fault]))
        assert found == {value: values.count(value) for value in values}


@pytest.mark.parametrize(
    "goal",
    [
        {"trials": 20},
        {"margin": 0.08},
        {"margin": 0.02, "trials": 40},
        {"trials": 20, "metric": "loss"},
        {"trials": 20, "metric": "sdc", "images_per_trial": "all"},
    ],
    ids=str,
)
def test_a_store_tells_what_its_campaign_told(
    goal: dict[str, Any], variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    live = campaign.run(variants, digits, FAULTS, store=path, **{**OPTIONS, **goal})
    stored, run = only(path), only(path).run
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
    with closing(sqlite3.connect(path)) as reader:
        (rows,) = reader.execute("SELECT count(*) FROM row").fetchone()
    assert stored.sessions[0].rows == rows


def test_trials_that_could_not_be_run(digits: Data, path: Path) -> None:
    class Fails(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.equal(self[1].bias, torch.ones(10)):
                raise ArithmeticError("no such bias")
            return super().forward(x)

    torch.manual_seed(0)
    model = Fails(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].bias.fill_(1.0)
    live = campaign.run({"m": model}, digits, [BitFlip(1e-3)], trials=40, store=path, **OPTIONS)
    assert 0 < live.cells[0].failed < 40
    assert_same(only(path), live)


def test_families_are_faults_but_for_their_rate(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    campaign.run(variants, digits, FAULTS, trials=2, store=path, **OPTIONS)
    cells = [cell for cell in only(path).run.cells if cell.variant == "relu"]
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


@pytest.mark.parametrize("goal", [{"trials": 300}, {"margin": 0.08}], ids=str)
def test_sweeps_tell_their_strata(
    goal: dict[str, Any], trained_cnn: nn.Module, digits: Data, path: Path
) -> None:
    options = {"images_per_trial": 16, "encoding": "q15.16", "executor": 1, "store": path, **goal}
    by_layer = campaign.per_layer(trained_cnn, digits, name="cnn", **options)
    by_bit = campaign.per_bit(trained_cnn, digits, name="cnn", **options)
    for stored, sweep in zip(read(path), (by_layer, by_bit), strict=True):
        assert stored.strata() == (sweep.strata, sweep.whole)
        assert (stored.run.kind, stored.run.variants[0].name) == (sweep.kind, "cnn")
        assert {cell.family for cell in stored.run.cells} == {"ExactFlips(1)"}
        assert sum(cell.share or 0.0 for cell in stored.run.cells) == pytest.approx(1.0)
        assert_same(stored, sweep.result)
    fields = {cell.part: cell.field for cell in read(path)[1].run.cells}
    assert (fields["31"], fields["16"], fields["15"]) == ("sign", "integer", "fraction")


def test_reading_takes_no_torch(
    variants: dict[str, nn.Module], digits: Data, path: Path, tmp_path: Path
) -> None:
    campaign.run(variants, digits, FAULTS[:2], trials=3, store=path, **OPTIONS)
    script = """
import sys
from proact.campaign import read
(stored,) = read(sys.argv[1])
stored.cells, stored.details(), stored.difference("ranger", "relu"), stored.failures()
early = {"torch", "matplotlib"} & set(sys.modules)
from proact.report import write_report
write_report(sys.argv[1], sys.argv[2])
print(sorted(early), "torch" in sys.modules)
"""
    assert python(script, str(path), str(tmp_path / "report")) == "[] False\n"


def test_an_interrupted_run_of_so_many_trials(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    options = {"trials": 30, "store": path, **OPTIONS}
    run_and_interrupt(50, variants, digits, FAULTS[:2], **options)
    begun = only(path)
    assert not begun.is_finished
    assert not begun.run.is_finished
    with closing(sqlite3.connect(path)) as reader:
        counted = reader.execute("SELECT variant, fault, count(*) FROM row GROUP BY 1, 2")
        per_cell = {(variant, fault): count for variant, fault, count in counted}
    assert 50 <= sum(per_cell.values()) < 120
    for cell, planned in zip(begun.cells, _by_variant(begun), strict=True):
        progress = begun.progress[planned.key]
        assert (cell.variant, cell.fault) == (planned.variant, planned.fault)
        assert cell.trials == progress.trials == per_cell.get(tuple(planned.key), 0)
        assert cell.is_finished == progress.is_finished == (cell.trials == 30)
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


def _by_variant(stored: Result) -> list[Any]:
    names = [variant.name for variant in stored.run.variants]
    return sorted(stored.run.cells, key=lambda cell: names.index(cell.variant))


def test_the_stopping_rule_is_replayed(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    faults = [BitFlip(1e-9), BitFlip(1e-5), BitFlip(1e-3)]
    options = {"margin": 0.05, "store": path, **OPTIONS}
    run_and_interrupt(100, variants, digits, faults, **options)
    begun = only(path)
    finished = {key: told.trials for key, told in begun.progress.items() if told.is_finished}
    live = campaign.run(variants, digits, faults, **options)
    stored = only(path)
    assert_same(stored, live)
    in_the_end = {cell.key: cell.trials for cell in stored.run.cells}
    # Some cells were done and some were not, and those that were have not moved.
    assert 0 < len(finished) < len(in_the_end)
    assert finished.items() <= in_the_end.items()
    # The rarest faults are known well enough without a trial: finished, with none, and not missing.
    rarest = [cell for cell in begun.cells if cell.ber == 1e-9]
    assert [(c.trials, c.is_finished, c.is_missing) for c in rarest] == [(0, True, False)] * 2
    # Without what the end noted, the rows alone say where each cell stopped.
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("UPDATE run SET description = ?", (begun.run.to_json(),))
    replayed = only(path)
    assert not replayed.run.is_finished
    assert replayed.is_finished
    assert {key: told.trials for key, told in replayed.progress.items()} == in_the_end
    assert replayed.cells == stored.cells


def test_a_sweep_that_is_interrupted(trained_cnn: nn.Module, digits: Data, path: Path) -> None:
    options = {"images_per_trial": 16, "encoding": "q15.16", "executor": 1, "store": path}
    with pytest.raises(KeyboardInterrupt):
        campaign.per_layer(trained_cnn, digits, trials=300, progress=Interrupt(60), **options)
    begun = only(path)
    assert not begun.is_finished
    parts, _ = begun.strata()
    assert 60 <= sum(part.trials for part in parts) < 300
    # Of a layer that nobody tried, all is possible.
    assert {(part.value.low, part.value.high) for part in parts if not part.trials} <= {(0, 1)}
    sweep = campaign.per_layer(trained_cnn, digits, trials=300, **options)
    stored = only(path)
    assert stored.strata() == (sweep.strata, sweep.whole)
    assert [session.outcome for session in stored.sessions] == ["interrupted", "finished"]


def test_what_was_finished_stays_so(
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
    assert stored.strata() == (sweep.strata, sweep.whole)
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
    def refuse(done: int, total: int) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        campaign.run(variants, digits, FAULTS[:1], trials=5, store=path, progress=refuse, **OPTIONS)
    (session,) = only(path).sessions
    assert session.outcome == "OSError: no room"
    assert session.ended is not None


def test_a_process_that_is_killed_leaves_an_open_session(path: Path) -> None:
    script = """
import os, signal, sys
import torch
from torch import nn
from proact import campaign, data
from proact.faults import BitFlip

torch.set_num_threads(1)
torch.manual_seed(0)
kill = lambda done, total: done >= 10 and os.kill(os.getpid(), signal.SIGKILL)
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


def test_sessions_tell_who_ran_them(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, **OPTIONS)
    environment = only(path).sessions[0].environment
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert environment["device"] == "cpu"
    assert environment["cores"] == os.cpu_count()
    others = {"proact", "numpy", "scipy", "python", "system", "processor", "isa"}
    assert environment.keys() >= others


def test_what_was_asked_for_tells_runs_apart(
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
    assert [stored.run.confidence for stored in runs] == [0.95] * 4 + [0.9, 0.95]
    assert runs[-1].run.name == "named"
    # They share rows: most of the later ones found all of theirs.
    assert [session.rows for session in runs[3].sessions] == [8, 0]


def test_notes_are_the_caller_s(variants: dict[str, nn.Module], digits: Data, path: Path) -> None:
    notes = {"experiment": {"network": "small-cnn", "data": "digits"}, "mine": [1, None, "é"]}
    for told in (None, notes):
        campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, notes=told, **OPTIONS)
    assert only(path).run.notes == notes, "what was said last"
    with pytest.raises(TypeError, match="JSON"):
        campaign.run(variants, digits, FAULTS[:1], trials=2, notes={"a": {1, 2}}, **OPTIONS)


def test_memory_is_counted_by_kind(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, **OPTIONS)
    relu, ranger = only(path).run.variants
    assert sum(kind.numbers for kind in relu.memory.values()) == sum(
        parameter.numel() for parameter in variants["relu"].parameters()
    )
    assert "threshold" not in relu.memory
    cost = protect.cost(variants["ranger"], digits, "q15.16")
    assert ranger.memory["threshold"].numbers == cost.thresholds > 0
    assert ranger.memory["threshold"].bits == 8 * cost.bytes


def make_older(path: Path) -> None:
    """What a store of version 2 was: without runs and sessions."""
    with closing(sqlite3.connect(path)) as writer, writer:
        for table in ("session", "run"):
            writer.execute(f"DROP TABLE {table}")
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


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION + 1])
def test_stores_of_versions_that_nobody_reads(version: int, path: Path) -> None:
    Store(path).close()
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(ProactError, match=f"store version {version}, this proact reads"):
        read(path)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(ProactError, match="there is no store"):
        read(tmp_path / "rows.sqlite")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProactError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "text").write_text("no rows here, and longer than a header")
    with pytest.raises(ProactError, match="not an SQLite file"):
        read(tmp_path / "text")
    Store(tmp_path / "empty").close()
    assert read(tmp_path / "empty") == []


def test_names_that_addresses_have_signs_for(
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
    """What a process that may write nothing reads: trials by cell, or the error."""
    script = """
import os, sys
import numpy, scipy.optimize, scipy.special, scipy.stats
from proact.campaign import read
from proact.results import cells
from proact.results import stored_run
from proact.results import store
if not os.getuid():
    # Python itself may be where nobody else can read: all is imported by now.
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
    told = read_as_nobody(reachable / "rows.sqlite")
    # Never left out in silence.
    assert told.startswith(f"ProactError: the store {reachable}/rows.sqlite has rows in "), told
    assert "copy both" in told


def test_a_store_that_is_being_written(
    variants: dict[str, nn.Module], digits: Data, path: Path
) -> None:
    seen: list[int] = []
    script = """
import sys
from proact.campaign import read
(stored,) = read(sys.argv[1])
assert not stored.is_finished
print(sum(cell.trials for cell in stored.cells), stored.sessions[0].outcome)
"""

    def look(done: int, total: int) -> None:
        if done >= 20 * (len(seen) + 1) and len(seen) < 2:
            told = python(script, str(path)).split()  # fmt: skip
            assert told[1] == "None"
            seen.append(int(told[0]))

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
