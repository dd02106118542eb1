"""Are a campaign's rows right, paired, stored at once, and never run twice?"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from conftest import bits_of, same_bits
from proact import ProactError, campaign, models, protect, results
from proact.campaign import CampaignProgress
from proact.campaign.trial_runner import TrialRunner
from proact.data import Data
from proact.faults import BitFlip, encode, inject
from proact.results import Policy
from proact.results.store import Row, Store
from result_rows import rows_of

FAULTS = [BitFlip(1e-4), BitFlip(1e-3, bits="sign")]


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return {"relu": trained_cnn, "ranger": protect.protect(trained_cnn, "ranger", digits)}


@pytest.fixture(scope="module")
def result(variants: dict[str, nn.Module], digits: Data) -> results.Result:
    return campaign.run(
        variants, digits, FAULTS, encoding="q15.16", trials=6, images_per_trial="all", seed=3
    )


def without_seconds(result: results.Result) -> dict[object, list[Row]]:
    return rows_of(result)


def test_rows_equal_a_plain_loop(
    result: results.Result, variants: dict[str, nn.Module], digits: Data
) -> None:
    images, labels = digits.test.images, digits.test.labels
    # In the campaign's batches: a batch decides the order in which a CPU adds up.
    batches = images.split(result.policy.batch)
    for name, model in variants.items():
        encoded = encode(model, "q15.16").eval()
        with torch.no_grad():
            clean = torch.cat([encoded(batch) for batch in batches]).argmax(1)
        for fault in FAULTS:
            for row in result.rows(name, fault):
                with (
                    inject(encoded, fault, "q15.16", seed=3, trial=row.trial) as record,
                    torch.no_grad(),
                ):
                    output = torch.cat([encoded(batch) for batch in batches])
                finite = torch.isfinite(output).all(1)
                hit = output.argmax(1)
                right = int((finite & (hit == labels)).sum())
                assert (row.flips, row.images) == (record.flips, len(images))
                assert (row.correct, row.value) == (right, right / len(images))
                assert row.agreeing == int((finite & (hit == clean)).sum())
                assert row.non_finite == int((~finite).sum())
                assert row.clean == pytest.approx(float((clean == labels).double().mean()))
        assert result.clean[name] == pytest.approx(float((clean == labels).double().mean()))


def test_cells_summarise_the_rows(result: results.Result) -> None:
    frame = result.to_pandas()
    assert list(frame["variant"]) == ["relu", "relu", "ranger", "ranger"]
    assert list(frame["ber"]) == [1e-4, 1e-3] * 2
    for (_, cell), rows in zip(frame.iterrows(), rows_of(result).values(), strict=True):
        share = np.array([row.correct / row.images for row in rows])
        # The chance of no flip at all is known, and counts with its weight (3e-4 at most here).
        assert cell["accuracy"] == pytest.approx(share.mean(), abs=1e-3)
        assert 0 <= cell["low"] <= cell["accuracy"] <= cell["high"] <= 1
        assert cell["flips"] == pytest.approx(np.mean([row.flips for row in rows]))
        assert cell["trials"] == 6
        assert cell["sdc"] == pytest.approx(
            1 - np.mean([row.agreeing / row.images for row in rows]), abs=1e-3
        )


def test_difference_is_paired_by_trial(result: results.Result) -> None:
    gains = result.difference("ranger", "relu")
    for fault, gain in gains.items():
        pairs = zip(result.rows("ranger", fault), result.rows("relu", fault), strict=True)
        expected = np.mean([(a.correct - b.correct) / a.images for a, b in pairs])
        assert gain.estimate == pytest.approx(expected)
        assert gain.low <= expected <= gain.high
    with pytest.raises(ValueError, match="'fitact'"):
        result.difference("fitact", "relu")


def test_table_and_plots_show_every_cell(result: results.Result, tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(result.table())
    text = console.export_text()
    console.file.close()
    assert "relu" in text
    assert "ranger" in text
    assert "BitFlip(0.0001)" in text
    for name in ("a.png", "a.svg", "b.svg"):
        result.plot(tmp_path / name)
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.01
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    with pytest.raises(ProactError, match=r"missing/a\.png cannot be written: No such file"):
        result.plot(tmp_path / "missing" / "a.png")


def test_a_store_is_resumed_not_repeated(
    variants: dict[str, nn.Module], digits: Data, result: results.Result, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "rows.sqlite"
    options = {"encoding": "q15.16", "images_per_trial": "all", "seed": 3, "store": path}
    campaign.run(variants, digits, FAULTS, trials=2, **options)

    class Stopped(BaseException):
        pass

    def stop(progress: CampaignProgress) -> None:
        if progress.done >= 11:
            raise Stopped

    with pytest.raises(Stopped):
        campaign.run(variants, digits, FAULTS, trials=6, progress=stop, **options)
    with closing(sqlite3.connect(path)) as reader:
        (stored,) = reader.execute("SELECT count(*) FROM row").fetchone()
    assert 8 < stored < 24

    executed: list[int] = []
    run = TrialRunner.run

    def counting(self: TrialRunner, fault: BitFlip, trial: int) -> Row:
        executed.append(trial)
        return run(self, fault, trial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialRunner, "run", counting)
        resumed = campaign.run(variants, digits, FAULTS, trials=6, **options)
    assert len(executed) == 24 - stored
    assert without_seconds(resumed) == without_seconds(result)
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reader.execute("SELECT count(*) FROM row").fetchone() == (24,)


def test_fewer_trials_than_stored_gives_the_asked_ones(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    path = tmp_path / "rows.sqlite"
    campaign.run(variants, digits, FAULTS, trials=5, store=path)
    again = campaign.run(variants, digits, FAULTS, trials=2, store=path)
    assert all([row.trial for row in rows] == [0, 1] for rows in rows_of(again).values())


def test_other_content_gets_other_rows(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    path = tmp_path / "rows.sqlite"
    # Without a policy, the tuning of each model has its own.
    policy = Policy(images=None, batch=64, channels_last=False)
    ways: list[dict[str, Any]] = [
        {"encoding": "q15.16", "seed": 0},
        {"encoding": "q15.16", "seed": 1},
        {"encoding": "float32", "seed": 0},
    ]
    for options in ways:
        campaign.run(variants, digits, FAULTS[:1], trials=2, store=path, policy=policy, **options)
    campaign.run(
        variants,
        (digits.test.images[:50], digits.test.labels[:50]),
        FAULTS[:1],
        trials=2,
        store=path,
        policy=policy,
        **ways[0],
    )
    changed = {"relu": protect.protect(variants["relu"], "ranger", digits)}
    campaign.run(changed, digits, FAULTS[:1], trials=2, store=path, policy=policy, **ways[0])
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM task").fetchone() == (4,)
        assert reader.execute("SELECT count(*) FROM row").fetchone() == (18,)
        facts = [json.loads(text) for (text,) in reader.execute("SELECT facts FROM task")]
    assert {fact["encoding"] for fact in facts} == {"q15.16", "float32"}


def test_trials_without_a_flip_are_not_run(digits: Data) -> None:
    calls: list[int] = []

    class Counting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return super().forward(x.flatten(1))

    options: dict[str, Any] = {"policy": Policy(None, 64, False), "executor": 1}
    result = campaign.run({"m": Counting(64, 10)}, digits, [BitFlip(0.0)], trials=50, **options)
    several, calls[:] = len(calls), []
    campaign.run({"m": Counting(64, 10)}, digits, [BitFlip(0.0)], trials=1, **options)
    assert several == len(calls), "the warm-up and the clean pass alone"
    (cell,) = result.cells
    assert cell.accuracy.estimate == pytest.approx(cell.clean)
    assert cell.flips == 0


def test_what_the_state_dict_does_not_hold_is_part_of_the_identity(
    digits: Data, tmp_path: Path
) -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)
            self.register_buffer("scale", torch.tensor(scale), persistent=False)
            self.sign = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.linear(x.flatten(1)) * self.scale * self.sign
            return output

    torch.manual_seed(0)
    model, store = Scaled(1.0), tmp_path / "rows.sqlite"
    buffer, attribute = Scaled(-1.0), Scaled(1.0)
    attribute.sign = -1.0
    for other in (buffer, attribute):
        other.linear.load_state_dict(model.linear.state_dict())
    fault = BitFlip(1e-3, where="linear.*")

    def run(model: nn.Module, path: Path | None) -> dict[object, list[Row]]:
        return without_seconds(
            campaign.run(
                {"m": model}, digits, [fault], trials=2, images_per_trial="all", store=path
            )
        )

    run(model, store)
    for other in (buffer, attribute):
        assert run(other, store) == run(other, None)


def test_bfloat16_networks_run(digits: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).bfloat16()
    images = (digits.test.images.bfloat16(), digits.test.labels)
    result = campaign.run({"m": model}, images, [BitFlip(1e-3)], encoding="bfloat16", trials=2)
    assert result.cells[0].trials == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_outputs_count_as_wrong(digits: Data, bad: float) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            broken = not torch.equal(self.weight, torch.ones(8))
            return torch.full((len(x), 10), bad if broken else 0.0)

    result = campaign.run({"m": Broken()}, digits, [BitFlip(0.5)], trials=3)
    for row in result.rows("m", BitFlip(0.5)):
        assert (row.correct, row.agreeing, row.non_finite) == (0, 0, row.images)


def test_the_given_models_are_untouched(trained_cnn: nn.Module, digits: Data) -> None:
    trained_cnn.train()
    before = bits_of(trained_cnn)
    campaign.run({"m": trained_cnn}, digits, FAULTS[:1], encoding="q15.16", trials=2)
    assert same_bits(before, trained_cnn)
    assert trained_cnn.training
    trained_cnn.eval()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"variants": {}}, ValueError, "variants: expected at least one, got none"),
        ({"faults": []}, ValueError, "faults: expected at least one, got none"),
        ({"faults": [0.1]}, TypeError, "float"),
        ({"faults": BitFlip(0.1)}, TypeError, "a list of faults, got a single BitFlip"),
        ({"variants": {"m": "x"}}, TypeError, "got str for m"),
        ({"faults": [BitFlip(0.1), BitFlip(0.1)]}, ValueError, "twice"),
        ({"faults": [BitFlip(0.1, where="nothing")]}, ValueError, "'nothing' matches no"),
        ({"trials": 0}, ValueError, "trials: expected an integer"),
        ({"trials": 1.5}, TypeError, "trials: expected an integer"),
        ({"confidence": 1.0}, ValueError, "confidence"),
        ({"seed": -1}, ValueError, "seed"),
        ({"encoding": "int9"}, ValueError, "'int9'"),
        ({"variants": {"m": nn.Flatten()}}, ValueError, "no parameters"),
        (
            {"variants": {"m": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}},
            ValueError,
            "labels go up to 9",
        ),
        ({"data": 3}, TypeError, "int"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    trained_cnn: nn.Module,
    digits: Data,
    tmp_path: Path,
    options: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    path = tmp_path / "rows.sqlite"
    arguments = {
        "variants": {"m": trained_cnn}, "data": digits, "faults": FAULTS, "trials": 2,
        "store": path, **options,
    }  # fmt: skip
    with pytest.raises(error, match=words):
        campaign.run(**arguments)  # type: ignore[arg-type]
    assert not path.exists()


def test_a_row_that_a_store_cannot_hold_is_not_dropped() -> None:
    with Store(None) as store:
        variant = store.variant(store.task("digest", {}), "m", "digest", 1, 1.0)
        cell = variant, store.fault("fault", {})
        row = Row(0, 1, 1, 1.0, 1.0, *[None] * 7, non_finite=0, raised=0, seconds=0.0)
        store.add(cell, [row, row])
        with pytest.raises(ProactError, match=r"row\.value"):
            store.add(cell, [row._replace(trial=1), row._replace(trial=2, value=float("nan"))])
        assert store.execute("SELECT trial FROM row") == [(0,)]


def test_files_that_are_no_store_are_refused_and_kept(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a store at all")
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as writer:
        writer.execute("CREATE TABLE t (x)")
    newer = tmp_path / "newer.sqlite"
    Store(newer).close()
    with closing(sqlite3.connect(newer)) as writer:
        writer.execute("PRAGMA user_version = 99")
    marked = tmp_path / "marked.sqlite"
    with closing(sqlite3.connect(marked)) as writer:
        writer.execute("PRAGMA application_id = 12345")
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"SQLite format 3\0" + bytes(200))
    for path, words in (
        (marked, "another program"),
        (damaged, "cannot be used"),
        (text, "not an SQLite file"),
        (other, "another program"),
        (newer, "version 99"),
        (tmp_path, "is a folder"),
        (text / "below.sqlite", "cannot be"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(ProactError, match=words):
            Store(path)
        assert not path.is_file() or path.read_bytes() == before


def test_a_locked_store_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.sqlite"
    Store(path).close()
    connect = sqlite3.connect
    with closing(connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(
            sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.1})
        )
        with pytest.raises(ProactError, match="cannot be used: database is locked"):
            Store(path)


def test_statistics_and_store_need_no_torch() -> None:
    code = (
        "import sys, proact.results.statistics, proact.results.store, proact.results.cells;"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_trial_draws_its_images_the_same_for_all(trained_cnn: nn.Module, digits: Data) -> None:
    faults = [BitFlip(0.0), BitFlip(1e-4)]
    result = campaign.run(
        {"a": trained_cnn, "b": trained_cnn}, digits, faults, trials=30, images_per_trial=40
    )
    again = campaign.run({"b": trained_cnn}, digits, faults[::-1], trials=30, images_per_trial=40)
    rows = {cell: [row[:-1] for row in found] for cell, found in rows_of(result).items()}
    assert rows["a", str(faults[1])] == rows["b", str(faults[1])]
    assert rows["b", str(faults[1])] == [row[:-1] for row in again.rows("b", faults[1])]
    # Without faults every image is as it was, and which images decides how many are right.
    clean = models.logits(trained_cnn, digits.test.images).argmax(1) == digits.test.labels
    counts = [row.correct for row in result.rows("a", faults[0])]
    assert all(row.images == 40 for row in result.rows("a", faults[0]))
    assert len(set(counts)) > 1
    assert sum(counts) / (30 * 40) == pytest.approx(float(clean.float().mean()), abs=0.02)


def test_as_many_images_as_there_are_are_all(trained_cnn: nn.Module, digits: Data) -> None:
    def run(images: int | Literal["all"] | None) -> list[tuple[object, ...]]:
        found = campaign.run(
            {"a": trained_cnn}, digits, [BitFlip(1e-4)], trials=3, images_per_trial=images
        )
        return [row[:-1] for row in found.rows("a", BitFlip(1e-4))]

    with pytest.warns(UserWarning, match="10000 is more than the 359 test images"):
        beyond = run(10_000)
    assert run(None) == run("all") == run(359) == beyond
    for bad in (0, -1):
        with pytest.raises(ValueError, match="images_per_trial"):
            run(bad)
