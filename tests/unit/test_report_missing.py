"""Does a report say what is missing, and never show it as zero?"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from pages import HOSTILE, OPTIONS, Interrupt, Page, checked, hostile_variants, tables_of
from rich.console import Console
from torch import nn

from proact import campaign
from proact.data import Data
from proact.faults import BitFlip
from proact.report import NoTrialsError, write_report
from proact.report.units import rate
from proact.results import read
from proact.results.store import Store


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return hostile_variants(trained_cnn, digits)


@pytest.fixture(scope="module")
def begun(
    variants: dict[str, nn.Module], digits: Data, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A campaign that was interrupted: one cell has its trials, one some, the others none."""
    path = tmp_path_factory.mktemp("begun") / "rows.sqlite"
    two = dict(list(variants.items())[:2])

    for faults, trials in (([BitFlip(1e-4)], 12), ([BitFlip(1e-3)], 3)):
        campaign.run(dict([*two.items()][:1]), digits, faults, trials=trials, store=path, **OPTIONS)
    # Of the last one nothing is kept: it is interrupted by the first unit that is new.
    faults = [BitFlip(1e-5), BitFlip(1e-4), BitFlip(1e-3)]
    with pytest.raises(KeyboardInterrupt):
        campaign.run(
            {**two, "third": two[HOSTILE[0]]}, digits, faults, trials=12, store=path,
            progress=Interrupt(), **OPTIONS,
        )  # fmt: skip
    return path


def test_cells_without_trials_are_missing_and_never_zero(begun: Path, tmp_path: Path) -> None:
    stored = read(begun)[-1]
    missing = {(c.variant, rate(c.ber)) for c in stored.cells if c.is_missing}
    partly = {(c.variant, rate(c.ber)) for c in stored.cells if c.trials and not c.is_finished}
    assert missing
    assert partly
    assert any(c.is_finished for c in stored.cells)
    names = [variant.name for variant in stored.spec.variants]
    written = write_report(begun, tmp_path)
    page = Page(written["html"])
    for ber, *values in page.table("BER per bit", *names)[1:]:
        for name, text in zip(names, values, strict=True):
            assert (text == "no trials") == ((name, ber) in missing)
            assert ("unfinished" in text) == ((name, ber) in partly)
    for row in page.table("variant", "fault", "exposed bits"):
        is_missing = (row[0], row[3]) in missing
        assert (row[4:6] == ["no trials"] * 2) == is_missing
        assert (row[8:] == ["no trials"] * 2) == is_missing
    assert "Not finished: some cells" in page.text

    frame = pd.read_csv(written["csv"])
    values = frame[
        ["accuracy", "low", "high", "sdc", "flips", "non_finite", "raised", "realised_ber"]
    ]
    for (_, row), (_, mine) in zip(frame.iterrows(), values.iterrows(), strict=True):
        is_missing = (row["variant"], rate(row["ber"])) in missing
        assert mine.isna().all() if is_missing else mine.notna().all()
        assert row["finished"] != (is_missing or (row["variant"], rate(row["ber"])) in partly)
        assert (row["trials"] == 0) == is_missing

    for ber, *texts in tables_of(written["markdown"].read_text("utf-8"))[0][2:]:
        for name, text in zip(names, texts, strict=True):
            assert (text == "no trials") == ((name, ber) in missing)
            assert text.endswith("unfinished") == ((name, ber) in partly)

    first, *_ = written["latex"].read_text("utf-8").split(r"\end{tabular}")
    lines = [line.strip().removeprefix("{}") for line in first.splitlines() if "1e-" in line]
    rows = [line.split(" & ") for line in lines]
    assert len(rows) == 3
    for ber, *texts in rows:
        for name, text in zip(names, texts, strict=True):
            value = text.removesuffix(" \\\\")
            assert (value == "no trials") == ((name, ber) in missing)
            assert value.endswith(", unfinished") == ((name, ber) in partly)


@pytest.mark.long
def test_a_cell_that_needs_no_trial_is_no_missing_one(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    faults = [BitFlip(1e-9), BitFlip(1e-4)]
    two = {"a": variants[HOSTILE[0]], "b": variants[HOSTILE[1]]}
    result = campaign.run(two, digits, faults, margin=0.1, **OPTIONS)
    assert [c.trials == 0 for c in result.cells] == [True, False] * 2
    page = Page(result.report(tmp_path))
    rows = page.table("BER per bit", "a", "b")
    assert rows[1][0] == "1e-9"
    assert rows[1][1].startswith(f"{100 * result.clean['a']:.1f} ")
    assert [text.count("no trial needed") for text in rows[1][1:] + rows[2][1:]] == [1, 1, 0, 0]
    for file in ("cells.md", "cells.tex"):
        assert (tmp_path / file).read_text("utf-8").count(", no trial needed") == 2
    console = Console(record=True, width=200)
    console.print(result.table())
    assert console.export_text().count("no trial needed") == 2
    assert result._repr_html_().count("no trial needed") == 2
    # What only trials can tell is not told.
    (first, *_) = page.table("variant", "fault", "exposed bits")
    assert first[6] == "0 no trial needed"
    assert (first[4:6], first[8:]) == (["no trials"] * 2, ["no trials"] * 2)
    assert "no classes" not in page.text
    frame = pd.read_csv(tmp_path / "cells.csv")
    assert frame["finished"].all()
    assert frame["needs_no_trial"].tolist() == [True, False] * 2
    assert frame["accuracy"].notna().all()
    for column in ("flips", "non_finite", "raised"):
        assert frame[column].isna().tolist() == [True, False] * 2
    assert checked(page) == ["at-1"], "the only rate with trials"


def test_the_first_distribution_is_of_trials_that_there_are(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    """Also where the baseline has none."""
    path = tmp_path / "rows.sqlite"
    b = {"b": variants[HOSTILE[1]]}
    faults = [BitFlip(1e-5), BitFlip(1e-4)]
    campaign.run(b, digits, faults[1:], trials=4, store=path, **OPTIONS)

    with pytest.raises(KeyboardInterrupt):
        campaign.run(
            {"a": variants[HOSTILE[0]], **b}, digits, faults, trials=200, store=path,
            progress=Interrupt(), **OPTIONS,
        )  # fmt: skip
    with Store(path) as opened:
        opened.execute("DELETE FROM row WHERE fault <> 1 OR variant <> 1")
    written = write_report(path, tmp_path / "report")
    assert checked(Page(written["html"])) == ["at-1"]
    assert "trials.svg" in written
    with pytest.raises(ValueError, match="at which the campaign has trials .1e-4., got 1e-05"):
        write_report(path, tmp_path / "report", at=1e-5)


def test_trials_that_could_not_be_run_are_listed(digits: Data, tmp_path: Path) -> None:
    class Fails(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self[1].bias[0] < 0:
                raise ArithmeticError("<b>no such bias</b>")
            return super().forward(x)

    torch.manual_seed(0)
    model = Fails(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].bias.fill_(1.0)
    fault = BitFlip(0.3, bits="sign")
    result = campaign.run({"m": model}, digits, [fault], trials=100, on_error="exclude", **OPTIONS)
    ((_, failed),) = result.failures().items()
    page = Page(result.report(tmp_path))
    shown = page.table("variant", "fault", "trial")
    reason = "ArithmeticError: <b>no such bias</b>"
    assert shown == [["m", str(fault), f"{trial}", reason] for trial, _ in failed[:20]]
    assert f"{len(failed)} trials failed" in page.text
    assert len(failed) > 20
    assert "the first 20" in page.text


def test_a_store_without_trials(tmp_path: Path) -> None:
    Store(tmp_path / "rows.sqlite").close()
    with pytest.raises(NoTrialsError, match="no trial of a campaign yet: .*report.html"):
        write_report(tmp_path / "rows.sqlite", tmp_path / "report")
    assert os.listdir(tmp_path / "report") == ["report.html"]
    assert "holds no trial of a campaign" in Page(tmp_path / "report" / "report.html").text


def test_a_store_of_an_older_version(begun: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_bytes(begun.read_bytes())
    with Store(path) as opened:
        opened.execute("DELETE FROM session")
        opened.execute("DELETE FROM run")
    with pytest.raises(NoTrialsError, match="only trials of an older version of proact"):
        write_report(path, tmp_path / "report")
    page = Page(tmp_path / "report" / "report.html")
    assert "holds no trial" not in page.text
    assert "are not run again" in page.text


def test_a_campaign_without_trials(begun: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_bytes(begun.read_bytes())
    with Store(path) as opened:
        opened.execute("DELETE FROM row")
    with pytest.raises(
        NoTrialsError, match="holds no result of this campaign: it has no trial yet"
    ):
        write_report(path, tmp_path / "report")
    page = Page(tmp_path / "report" / "report.html")
    assert "No trial is stored yet" in page.text
    assert page.text.count("has no trials yet.") == 3
    assert not [1 for tag, _ in page.tags if tag == "svg"]
    assert not pd.read_csv(tmp_path / "report" / "cells.csv")["accuracy"].notna().any()


def test_sweeps_are_shown_under_the_campaign_s_names(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    path = tmp_path / "rows.sqlite"
    relu, ranger = variants[HOSTILE[0]], variants[HOSTILE[1]]
    sweep = {"encoding": "q15.16", "images_per_trial": 16, "store": path, "trials": 40}
    campaign.per_layer(ranger, digits, **sweep)  # by its default name
    campaign.per_layer(ranger, digits, name="relu", **sweep)  # by another's
    torch.manual_seed(0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    campaign.per_layer(other, digits, name="relu", **sweep)  # by another's, and not there itself
    campaign.run({"relu": relu, "ranger": ranger}, digits, [BitFlip(1e-4)], trials=2, store=path,
                 **OPTIONS)  # fmt: skip
    page = Page(write_report(path, tmp_path / "report")["html"])
    captions = re.findall(r"(.*): loss in points by layer", page.text)
    assert captions == ["ranger", "relu (another model)"]


def test_a_sweep_is_shown_in_its_own_unit(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    path, model = tmp_path / "rows.sqlite", variants[HOSTILE[0]]
    sweep = {"encoding": "q15.16", "images_per_trial": 16, "store": path, "trials": 40}
    points = campaign.per_layer(model, digits, name="a", **sweep)
    nats = campaign.per_layer(model, digits, name="a", metric="loss", **sweep)
    campaign.run({"a": model}, digits, [BitFlip(1e-4)], trials=2, store=path, metric="loss",
                 **OPTIONS)  # fmt: skip
    written = write_report(path, tmp_path / "report")
    assert {"per-layer.svg", "per-layer-1.svg"} <= set(written)
    page = Page(written["html"])
    found = [table for table in page.tables if table[0][0] == "layer"]
    expected = {
        "points": [[f"{100 * part.loss.estimate:.2f}"] for part in points.strata],
        "nats": [[f"{part.loss.estimate:.4g}"] for part in nats.strata],
    }
    captions = re.findall(r"a: loss in (\w+) by layer", page.text)
    assert sorted(captions) == ["nats", "points"]
    for unit, table in zip(captions, found, strict=True):
        assert [row[2:3] for row in table[1:]] == expected[unit]


def test_an_unfinished_sweep_says_so(
    variants: dict[str, nn.Module], digits: Data, tmp_path: Path
) -> None:
    path, model = tmp_path / "rows.sqlite", variants[HOSTILE[0]]

    with pytest.raises(KeyboardInterrupt):
        campaign.per_layer(
            model, digits, encoding="q15.16", images_per_trial=16, store=path, trials=200,
            progress=Interrupt(),
        )  # fmt: skip
    campaign.run({"a": model}, digits, [BitFlip(1e-4)], trials=2, store=path, **OPTIONS)
    page = Page(write_report(path, tmp_path / "report")["html"])
    assert "Not finished: some parts" in page.text
    assert "Not finished: some cells" not in page.text
    rows = page.table("layer", "share of bits, %")
    assert any(row[-1] == "0" for row in rows)
    for row in rows:
        assert (row[2:4] == ["no trials"] * 2) == (row[-1] == "0")
