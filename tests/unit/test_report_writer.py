"""Is a report written whole or not at all, and of the run that was asked for?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import HOSTILE, OPTIONS, Page, hostile_variants
from torch import nn

from proact import ProactError, campaign
from proact.data import Data
from proact.faults import BitFlip, ExactFlips
from proact.report import write_report
from proact.report.units import MetricUnits

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return hostile_variants(trained_cnn, digits)


@pytest.fixture(scope="module")
def store(
    variants: dict[str, nn.Module], digits: Data, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("report") / "rows.sqlite"
    faults = [BitFlip(ber) for ber in (1e-5, 1e-4, 1e-3)]
    campaign.run(variants, digits, faults, trials=3, store=path, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def small_store(
    trained_cnn: nn.Module, digits: Data, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Whose figures take little time."""
    path = tmp_path_factory.mktemp("report") / "small.sqlite"
    campaign.run({"a": trained_cnn}, digits, [BitFlip(1e-4)], trials=2, store=path, **OPTIONS)
    return path


def test_a_result_writes_its_report(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    two = dict(zip(("a", "b"), variants.values(), strict=False))
    for store in (None, tmp_path / "rows.sqlite"):
        result = campaign.run(two, digits, [BitFlip(1e-4)], trials=3, store=store, **OPTIONS)
        again = campaign.run(two, digits, [BitFlip(1e-3)], trials=3, store=store, **OPTIONS)
        page = result.report(tmp_path / str(store is None))
        assert page == tmp_path / str(store is None) / "report.html"
        # Its own cells, not those of the run after it.
        assert [row[0] for row in Page(page).table("BER per bit", "a")] == ["no faults", "1e-4"]
        page = again.report(tmp_path / "new", baseline="b")
        shown = Page(page).table("BER per bit", "a", "b")
        assert [row[0] for row in shown] == ["no faults", "1e-3"]
        assert "Difference to b, paired" in Page(page).text
        assert Page(page).text.count("to stay within 5 points of") == 2
        page = again.report(tmp_path / "new", limit=0.12)
        assert Page(page).text.count("to stay within 12 points of") == 2
        page = again.report(tmp_path / "new", family_wise=True)
        # Two cells and a gain.
        assert "Each of these 3 intervals has 98.333 % (Bonferroni)" in " ".join(
            Page(page).text.split()
        )
        strict = again.at_confidence(1 - 0.05 / 3)
        (mine, _), (wider, _) = again.cells, strict.cells
        units = MetricUnits("top-1")
        first, *_ = Page(page).text.split("Shown")
        assert f"({units.interval(wider.value)})" in first
        assert f"({units.interval(mine.value)})" not in first
        with pytest.raises(ValueError, match="'c'"):
            result.report(tmp_path / "never", baseline="c")
    assert not (tmp_path / "never").exists()


def test_choosing_a_run(variants: dict[str, nn.Module], digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    one = {"a": variants[HOSTILE[0]]}
    for ber in (1e-5, 1e-4):
        campaign.run(one, digits, [BitFlip(ber)], trials=2, store=path, **OPTIONS)
    campaign.per_layer(one["a"], digits, trials=20, store=path, images_per_trial=16)
    for run, ber, other in ((1, "1e-5", 2), (2, "1e-4", 1), (None, "1e-4", 1)):
        page = Page(write_report(path, tmp_path / "report", run=run)["html"])
        assert page.table("BER per bit", "a")[1][0] == ber
        assert f"Other campaigns in the store: run {other} (" in page.text
    for number in (3, 4):  # a sweep, and none
        with pytest.raises(ValueError, match=f"have the numbers 1, 2; got {number}"):
            write_report(path, tmp_path / "never", run=number)
    assert not (tmp_path / "never").exists()


def test_exact_numbers_of_flips_are_shown_as_such(digits: Data, tmp_path: Path) -> None:
    """Models with different numbers of bits meet as many flips at different bit error rates."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    large = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))
    result = campaign.run(
        {"small": small, "large": large}, digits, [ExactFlips(1000), ExactFlips(3)], trials=4
    )
    folder = tmp_path / "report"
    page = Page(result.report(folder))
    assert [row[0] for row in page.table("flips", "small")[1:]] == ["3", "1,000"]
    assert [row[0] for row in page.table("flips", "large")] == ["3", "1,000"]
    text = " ".join(page.text.split())
    assert re.search(r"(up to|number of flips: at) (3|1,000) flips", text)
    assert "4 trials at each number of flips, 16 in all" in page.text
    assert "interval at each tested number of flips." in page.text
    assert "The distribution of trials at one number of flips can have" in page.text
    assert "At 1,000 flips: share of the trials" in page.text
    assert (folder / "cells.md").read_text().count("| flips |") == 2
    with pytest.raises(ValueError, match="number of flips at which .* .3 flips, 1,000 flips., got"):
        write_report(result._store, tmp_path / "never", at=4)


def test_what_cannot_be_reported(store: Path, tmp_path: Path) -> None:
    never = tmp_path / "never"
    with pytest.raises(ValueError, match="'_hiden'.*'_hidden'"):
        write_report(store, never, baseline="_hiden")
    with pytest.raises(ValueError, match="has trials .1e-5, 1e-4, 1e-3., got 0.5"):
        write_report(store, never, at=0.5)
    for limit in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"lies in \(0, 1\], .* range; got {limit}"):
            write_report(store, never, limit=limit)
    with pytest.raises(ProactError, match="there is no store"):
        write_report(tmp_path / "nothing.sqlite", never)
    (tmp_path / "text").write_text("no rows here, and longer than a header")
    with pytest.raises(ProactError, match="is not a proact store"):
        write_report(tmp_path / "text", never)
    assert not never.exists()


def assert_refused(store: Path, folder: Path, place: Path) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    folders = sorted(path for path in place.rglob("*") if path.is_dir())
    with pytest.raises(ProactError, match="^the report cannot be written to ") as refused:
        write_report(store, folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert sorted(path for path in place.rglob("*") if path.is_dir()) == folders


def test_a_folder_that_is_a_file(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    assert_refused(small_store, tmp_path / "file", tmp_path)
    assert_refused(small_store, tmp_path / "file" / "below", tmp_path)


def test_a_folder_where_one_file_cannot_be_written(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("an older one")
    (tmp_path / "report" / "cells.md").mkdir()
    assert_refused(small_store, tmp_path / "report", tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk(
    exists: bool, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[[Path, bytes], int] = Path.write_bytes

    def write_a_part(path: Path, content: bytes) -> int:
        if "cells" in path.name:
            write(path, content[:10])
            raise OSError(28, "No space left on device")
        return write(path, content)

    folder = tmp_path / "new" / "report"
    if exists:
        folder.mkdir(parents=True)
    monkeypatch.setattr(Path, "write_bytes", write_a_part)
    assert_refused(small_store, folder, tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="where root may not write is Linux'")
def test_a_folder_that_may_not_be_written(small_store: Path, tmp_path: Path) -> None:
    assert_refused(small_store, Path("/proc/self/report"), tmp_path)


def test_other_metrics(variants: dict[str, nn.Module], digits: Data, tmp_path: Path) -> None:
    two = dict(zip(("a", "b"), variants.values(), strict=False))
    faults = [BitFlip(1e-5), BitFlip(1e-3)]
    own = campaign.Metric(
        "meanIoU", lambda outputs, targets, clean: outputs.softmax(1).amax(1), needs_targets=False
    )
    for metric, heading, axis in (
        ("loss", "Cross-entropy over bit error rate", "cross-entropy (nats), 95 % interval"),
        (own, "MeanIoU over bit error rate", "meanIoU (%), 95 % interval"),
    ):
        result = campaign.run(two, digits, faults, trials=4, metric=metric, **OPTIONS)
        text = Page(result.report(tmp_path)).text
        assert heading in text
        assert axis in text, "figures hold their text as text"
