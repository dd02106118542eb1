"""Does a page show another campaign beside its own, and the settings that differ?"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pages import OPTIONS, Page
from torch import nn

from proact import ProactError, campaign, protect
from proact.data import Data
from proact.faults import BitFlip
from proact.report import write_report
from proact.report.analysis import Analysis
from proact.report.comparison import Comparison
from proact.report.units import MetricUnits
from proact.results import Result, read
from proact.results.statistics import Interval, independent_difference
from proact.results.store import Store

FAULTS = [BitFlip(1e-4), BitFlip(1e-3)]


@pytest.fixture(scope="module")
def here(trained_cnn: nn.Module, digits: Data) -> Result:
    ranger = protect.protect(trained_cnn, "ranger", digits, mode="zero")
    variants = {"relu": trained_cnn, "ranger": ranger}
    return campaign.run(variants, digits, [BitFlip(1e-5), *FAULTS], trials=8, **OPTIONS)


@pytest.fixture(scope="module")
def other_store(
    trained_cnn: nn.Module, digits: Data, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("other") / "rows.sqlite"
    options = {**OPTIONS, "encoding": "float32", "seed": 4, "name": "floats"}
    campaign.run({"relu": trained_cnn}, digits, FAULTS, trials=6, store=path, **options)
    return path


def test_the_difference_of_separate_estimates_adds_distances_in_squares() -> None:
    difference = independent_difference(Interval(0.9, 0.86, 0.93), Interval(0.5, 0.46, 0.53))
    assert difference.estimate == pytest.approx(0.4)
    assert difference.low == pytest.approx(0.4 - math.hypot(0.04, 0.03))
    assert difference.high == pytest.approx(0.4 + math.hypot(0.03, 0.04))


@pytest.mark.long
def test_cells_of_both_campaigns_stand_side_by_side(
    here: Result, other_store: Path, tmp_path: Path
) -> None:
    (theirs,) = read(other_store)
    page = Page(here.report(tmp_path, compare=theirs))
    rows = page.table("variant", "fault", "BER per bit", "here", "floats")
    units = MetricUnits("top-1")
    assert rows.pop(0)[:3] == ["relu", "no faults", "0"]
    assert len(rows) == len(FAULTS)
    for row, fault in zip(rows, FAULTS, strict=True):
        mine, other = here.cell("relu", fault).value, theirs.cell("relu", fault).value
        difference = independent_difference(mine, other)
        assert row[0] == "relu"
        for text, value in zip(row[3:5], (mine, other), strict=True):
            assert text == f"{units.value(value.estimate)} {units.interval(value)}"
        ends = units.interval_of_difference(difference)
        assert row[5] == f"{units.difference(difference.estimate)} {ends}"
    settings = {name: (mine, other) for name, mine, other in page.table("setting", "here")}
    assert settings["encoding"] == ("q15.16", "float32")
    assert settings["seed"] == ("3", "4")
    assert settings["trials"] == ("8", "6")
    assert "images per trial" not in settings
    assert "model of relu" not in settings, "digests of other encodings differ"
    assert (tmp_path / "compared.svg").exists()


def test_a_store_is_compared_by_its_path(
    here: Result, other_store: Path, trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    """The same options with another model: the clean values and the model are what differs."""
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    options = {**OPTIONS, "encoding": "float32", "seed": 4}
    path = tmp_path / "rows.sqlite"
    mine = campaign.run({"relu": untrained}, digits, FAULTS, trials=6, store=path, **options)
    page = Page(write_report(path, tmp_path / "report", compare=other_store)["html"])
    first, *rows = page.table("variant", "fault", "BER per bit", "here", str(other_store))
    (theirs,) = read(other_store)
    clean = [100 * each.clean["relu"] for each in (mine, theirs)]
    assert first[1:5] == ["no faults", "0", f"{clean[0]:.1f}", f"{clean[1]:.1f}"]
    assert len(rows) == len(FAULTS)
    settings = page.table("setting", "here")
    assert [row[0] for row in settings] == ["model of relu"]
    assert settings[0][1].startswith("Sequential ")


def test_both_columns_have_the_confidence_of_the_page(here: Result, other_store: Path) -> None:
    (theirs,) = read(other_store)
    comparison = Comparison(Analysis(here.at_confidence(0.99)), theirs, "x")
    assert comparison.cells[0].there.value.half_width > theirs.cells[0].value.half_width
    assert ("confidence", "0.99", "0.95") in comparison.settings


def test_what_cannot_be_compared_is_refused(
    here: Result, other_store: Path, trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    never = tmp_path / "never"
    nats = campaign.run({"relu": trained_cnn}, digits, FAULTS, trials=2, metric="loss", **OPTIONS)
    with pytest.raises(ValueError, match="this one has top-1 in .*, and run 1 in memory has loss"):
        here.report(never, compare=nats)
    alone = campaign.run({"x": trained_cnn}, digits, FAULTS, trials=2, **OPTIONS)
    with pytest.raises(ValueError, match="here are relu, ranger, and run 1 in memory has x"):
        here.report(never, compare=alone)
    with pytest.raises(ValueError, match="is the campaign of the page itself"):
        write_report(other_store, never, compare=other_store)
    empty = tmp_path / "empty.sqlite"
    Store(empty).close()
    with pytest.raises(ProactError, match=r"empty.sqlite holds no campaign to compare with"):
        write_report(other_store, never, compare=empty)
    assert not never.exists()
