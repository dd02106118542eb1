"""Does a campaign stop at its margin, choose how to run, and say so?"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from proact import ProactError, campaign, results
from proact.campaign import autotune
from proact.campaign.draws import drawn_units
from proact.data import Data
from proact.faults import BitFlip, Burst, ExactFlips, Injector, StuckAt
from proact.results import Policy

FAULTS = [BitFlip(1e-5), BitFlip(1e-3)]


@pytest.fixture(scope="module")
def result(trained_cnn: nn.Module, digits: Data) -> results.Result:
    return campaign.run(
        {"m": trained_cnn}, digits, FAULTS, encoding="q15.16", margin=0.03, images_per_trial=16
    )


def test_cells_stop_at_the_margin_and_not_before(result: results.Result) -> None:
    for cell in result.cells:
        assert 0.02 < cell.accuracy.half_width <= 0.03
    # Half-way down the curve trials differ most.
    assert result.cells[0].trials > 2 * result.cells[1].trials


def test_the_table_does_not_depend_on_what_is_stored(
    result: results.Result, trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    # One policy, because what is chosen by measurement can change a nearly tied prediction.
    store = tmp_path / "rows.sqlite"
    options = {"encoding": "q15.16", "policy": result.policy, "store": store}
    campaign.run({"m": trained_cnn}, digits, FAULTS[1:], trials=777, **options)
    campaign.run({"m": trained_cnn}, digits, FAULTS[:1], trials=5, **options)
    again = campaign.run({"m": trained_cnn}, digits, FAULTS, margin=0.03, **options)
    assert again.to_pandas().equals(result.to_pandas())
    capped = campaign.run({"m": trained_cnn}, digits, FAULTS, margin=0.03, trials=50, **options)
    assert [cell.trials for cell in capped.cells] == [50, 50]


def test_what_rarely_flips_is_known_without_trials(trained_cnn: nn.Module, digits: Data) -> None:
    bits = Injector(trained_cnn).exposed_bits(BitFlip(0.1))
    rare = BitFlip(0.001 / bits)
    result = campaign.run({"m": trained_cnn}, digits, [rare], margin=0.01)
    (cell,) = result.cells
    assert cell.trials == 0
    assert cell.accuracy.high - cell.accuracy.low == pytest.approx(0.001, rel=0.01)
    assert cell.accuracy.low <= cell.clean <= cell.accuracy.high


def test_the_chance_of_no_flip(mlp: nn.Module) -> None:
    injector = Injector(mlp)
    bits = injector.exposed_bits(BitFlip(0.1))
    rates = {"0.*": 1e-3, "*": 1e-4}
    first = injector.exposed_bits(BitFlip(0.1, where="0.*"))
    expected = (1 - 1e-3) ** first * (1 - 1e-4) ** (bits - first)
    assert injector.probability_of_none(BitFlip(rates)) == pytest.approx(expected)
    assert injector.probability_of_none(BitFlip(0.0)) == 1.0
    assert injector.probability_of_none(BitFlip(1.0)) == 0.0
    assert injector.probability_of_none(ExactFlips(1)) == 0.0
    assert injector.probability_of_none(ExactFlips(0)) == 1.0
    for unknown in (StuckAt(1, 1e-3), Burst(2, 1e-3)):
        assert injector.probability_of_none(unknown) is None
    flipped = 0
    for trial in range(2000):
        with injector.trial(BitFlip(1e-4), 0, trial) as record:
            flipped += record.flips > 0
    share = 1 - injector.probability_of_none(BitFlip(1e-4))  # type: ignore[operator]
    assert abs(flipped - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5


def test_the_choice_of_images_is_kept(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "_SHORT", 0.0)  # short campaigns use all images
    store = tmp_path / "rows.sqlite"
    first = campaign.run({"m": trained_cnn}, digits, FAULTS, margin=0.05, store=store)
    with closing(sqlite3.connect(store)) as writer:
        (measured,) = writer.execute(
            "SELECT made FROM choice WHERE subject LIKE 'warm-up%'"
        ).fetchone()
        assert json.loads(measured)["cost"]["image"] > 0
        assert any("64 images" in label for label in json.loads(measured)["seconds"])
        (text,) = writer.execute(
            "SELECT made FROM choice WHERE subject LIKE 'images a trial%'"
        ).fetchone()
        made = json.loads(text)
        assert made["policy"]["images"] == first.images_per_trial
        made["policy"]["images"] = 21
        writer.execute(
            "UPDATE choice SET made = ? WHERE subject LIKE 'images a trial%'", (json.dumps(made),)
        )
        writer.commit()
    again = campaign.run({"m": trained_cnn}, digits, FAULTS, margin=0.05, store=store)
    assert again.images_per_trial == 21
    assert all(row.images == 21 for row in again.rows("m", FAULTS[0]))


def test_a_policy_is_repeated(trained_cnn: nn.Module, digits: Data) -> None:
    policy = Policy(20, 7, True)
    result = campaign.run({"m": trained_cnn}, digits, FAULTS[:1], trials=20, policy=policy)
    other = campaign.run({"m": trained_cnn}, digits, FAULTS[:1], trials=20, images_per_trial=20)
    assert result.policy == policy
    assert [row.value for row in result.rows("m", FAULTS[0])] == pytest.approx(
        [row.value for row in other.rows("m", FAULTS[0])], abs=0.11
    )


def test_a_name_stands_for_one_task(trained_cnn: nn.Module, digits: Data, tmp_path: Path) -> None:
    store = tmp_path / "rows.sqlite"
    options = {"trials": 3, "images_per_trial": 16, "store": store, "name": "night"}
    campaign.run({"m": trained_cnn}, digits, FAULTS[:1], **options)
    campaign.run({"m": trained_cnn, "other": trained_cnn}, digits, FAULTS, **options)
    before = store.read_bytes()
    with pytest.raises(ProactError, match="'night' with other settings: seed is 0 in"):
        campaign.run({"m": trained_cnn}, digits, FAULTS[:1], seed=1, **options)
    torch.manual_seed(0)
    changed = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ProactError, match="whose variants m are other models"):
        campaign.run({"m": changed}, digits, FAULTS[:1], **options)
    with closing(sqlite3.connect(store)) as reader:
        assert reader.execute("SELECT count(*) FROM row").fetchone() == (12,)
    assert len(before) > 0


def test_variants_answer_alike(trained_cnn: nn.Module, digits: Data, tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    with pytest.raises(ValueError, match=r"\(10,\) from cnn, \(12,\) from wide"):
        campaign.run(
            {"cnn": trained_cnn, "wide": wide}, digits, FAULTS, store=tmp_path / "rows.sqlite"
        )
    assert not (tmp_path / "rows.sqlite").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"margin": 0.0}, ValueError, "margin: expected a finite number above 0"),
        ({"margin": 1}, ValueError, "below 0.5, because an interval of the metric's whole range"),
        ({"margin": 0.5}, ValueError, "needs no trial; got 0.5"),
        ({"margin": 0.1, "confidence": 0.0}, ValueError, "confidence: expected a number in (0, 1)"),
        ({"images_per_trial": "some"}, ValueError, "'auto' or 'all'"),
        ({"metric": "f1"}, ValueError, "'f1'"),
        ({"executor": 0}, ValueError, "at least 1 process, got 0"),
        ({"executor": "two"}, TypeError, "executor: expected"),
    ],
)
def test_bad_input(
    options: dict[str, object],
    error: type[Exception],
    words: str,
    trained_cnn: nn.Module,
    digits: Data,
    tmp_path: Path,
) -> None:
    store = tmp_path / "rows.sqlite"
    with pytest.raises(error) as raised:
        campaign.run({"m": trained_cnn}, digits, FAULTS, store=store, **options)  # type: ignore[arg-type]
    assert words in str(raised.value)
    assert not store.exists()


def test_images_of_a_trial_are_a_fair_draw_and_nested() -> None:
    counts = np.zeros(20)
    for trial in range(3000):
        order = drawn_units(0, trial, 20, 20)
        assert sorted(order) == list(range(20))
        assert drawn_units(0, trial, 20, 5) == order[:5]
        counts[order[:5]] += 1
    # Each image is among five of twenty in a quarter of the trials.
    assert np.abs(counts - 750).max() < 4 * (3000 * 0.25 * 0.75) ** 0.5
    assert drawn_units(1, 0, 20, 5) != drawn_units(0, 0, 20, 5)


def test_progress_is_announced_to_a_function(trained_cnn: nn.Module, digits: Data) -> None:
    seen: list[tuple[int, int, bool]] = []
    campaign.run(
        {"m": trained_cnn}, digits, FAULTS, margin=0.05, images_per_trial=16,
        progress=lambda now: seen.append((now.done, now.total, now.is_running)),
    )  # fmt: skip
    assert seen[0][0] == 0
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert [is_running for *_, is_running in seen] == [True] * (len(seen) - 1) + [False]


def test_quiet_where_nobody_watches(
    trained_cnn: nn.Module, digits: Data, capfd: pytest.CaptureFixture[str]
) -> None:
    campaign.run({"m": trained_cnn}, digits, FAULTS, trials=20, images_per_trial=16)
    assert capfd.readouterr() == ("", "")


def test_a_campaign_on_the_cpu_leaves_gpus_alone(
    trained_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU of the machine may be in use, and its memory used up."""

    def refused(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", refused)
    result = campaign.run({"m": trained_cnn}, digits, FAULTS, trials=4)
    assert [cell.trials for cell in result.cells] == [4, 4]


def test_times_on_a_gpu_include_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    calls: list[int] = []
    autotune._median(lambda: calls.append(len(waited)), torch.device("cuda", 1))
    assert calls == list(range(len(calls)))
    assert waited == [torch.device("cuda", 1)] * len(calls)
