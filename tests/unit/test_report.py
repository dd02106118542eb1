"""Does a report say what a store holds, no more and no less, whatever the names in it are?"""

from __future__ import annotations

import csv
import os
import re
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from pages import HOSTILE, OPTIONS, Page, checked, hostile_variants, tables_of
from torch import nn

from conftest import slow
from proact import campaign
from proact.data import Data
from proact.faults import ActivationFlip, BitFlip, ExactFlips
from proact.report import write_report
from proact.report.exports import latex, markdown
from proact.report.units import MetricUnits, rate
from proact.results import Result, read


@pytest.fixture(scope="module")
def variants(trained_cnn: nn.Module, digits: Data) -> dict[str, nn.Module]:
    return hostile_variants(trained_cnn, digits)


@pytest.fixture(scope="module")
def store(
    variants: dict[str, nn.Module], digits: Data, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished campaign of three families, and sweeps, of networks with hostile names."""
    path = tmp_path_factory.mktemp("report") / "rows.sqlite"
    sweep = {"encoding": "q15.16", "images_per_trial": 16, "store": path, "trials": 170}
    campaign.per_layer(variants[HOSTILE[0]], digits, name=HOSTILE[0], **sweep)
    campaign.per_bit(variants[HOSTILE[0]], digits, name=HOSTILE[0], **sweep)
    faults = [BitFlip(1e-3), BitFlip(1e-5), BitFlip(1e-4), ActivationFlip(1e-4), ExactFlips(2)]
    notes = {
        "experiment": {"model": "small-cnn", "data": "<digits>", "seed": 3},
        "costs": {HOSTILE[1]: {"clean_soft": 0.9125, "latency": 1.25, "thresholds": 4}},
    }
    campaign.run(variants, digits, faults, trials=12, store=path, notes=notes, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def written(store: Path) -> dict[str, Path]:
    return write_report(store, store.parent / "report")


@pytest.fixture(scope="module")
def page(written: dict[str, Path]) -> Page:
    return Page(written["html"])


@pytest.fixture(scope="module")
def stored(store: Path) -> Result:
    return read(store)[-1]


def test_the_files(store: Path, written: dict[str, Path]) -> None:
    figures = ["accuracy", "gain", "trials", "per-layer", "per-bit"]
    assert set(written) == {"html", "csv", "latex", "markdown"} | {
        f"{figure}.{ending}" for figure in figures for ending in ("png", "svg")
    }
    names = sorted(path.name for path in written.values())
    assert names == sorted(os.listdir(store.parent / "report"))
    for path in written.values():
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        elif path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_the_same_store_gives_the_same_bytes(
    store: Path, written: dict[str, Path], tmp_path: Path
) -> None:
    again = write_report(store, tmp_path / "new" / "folder")
    assert again.keys() == written.keys()
    for what, path in again.items():
        assert path.read_bytes() == written[what].read_bytes(), what


def test_a_telephone_gets_the_page_in_its_own_width(page: Page) -> None:
    (viewport,) = [a["content"] for tag, a in page.tags if a.get("name") == "viewport"]
    assert viewport == "width=device-width, initial-scale=1"


def test_names_are_text(page: Page, written: dict[str, Path]) -> None:
    for name in HOSTILE:
        assert name in page.text
        assert page.text.count(name) >= 6
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<digits>" in page.text
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or ""
            assert target.startswith(("#", "data:,")) or not target
    assert not re.search(r"https?://", written["html"].read_text().replace("http://www.w3.org", ""))


def test_ids_are_used_once_and_what_refers_to_them_finds_them(
    page: Page, written: dict[str, Path]
) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = re.findall(r"(?:url\(#|href=\"#|:has\(#)([^)\":]+)", written["html"].read_text())
    assert referred
    assert set(referred) <= set(ids)


def test_the_page_shows_every_cell(page: Page, stored: Result) -> None:
    units = MetricUnits("top-1")
    headings = [table[0][0] for table in page.tables if table[0][1:] == HOSTILE]
    assert headings == ["BER per bit", "BER per bit", "flips"], "one a family"
    shown = [table for table in page.tables if table[0] == ["BER per bit", *HOSTILE]]
    values = {
        (name, row[0]): text
        for row in shown[0][1:]
        for name, text in zip(HOSTILE, row[1:], strict=True)
    }
    for each in stored.cells:
        if each.fault.startswith("BitFlip"):
            assert values[each.variant, rate(each.ber)] == (
                f"{units.value(each.value.estimate)} {units.interval(each.value)}"
            )
            assert values[each.variant, "no faults"] == units.value(each.clean)
    assert [row[0] for row in shown[0][1:]] == ["no faults", "1e-5", "1e-4", "1e-3"]
    differences = [table for table in page.tables if table[0] == ["BER per bit", *HOSTILE[1:]]]
    gains = stored.difference(HOSTILE[1], HOSTILE[0])
    for row, fault in zip(differences[0][1:], ("1e-05", "0.0001", "0.001"), strict=True):
        gain = gains[f"BitFlip({fault})"]
        assert row[1] == f"{units.difference(gain.estimate)} {units.interval_of_difference(gain)}"


def test_the_page_says_how_it_was_measured(page: Page, stored: Result) -> None:
    text = " ".join(page.text.split())
    # Three families: 4 variants of 12 trials at 3, 1 and 1 rates.
    for trials in (
        "12 trials at each rate, 144 in all",
        "12 trials at each rate, 48 in all",
        "12 trials at each number of flips, 48 in all",
    ):
        assert trials in text
    assert f"judged on 16 of {stored.spec.images:,} evaluation images" in text
    flips = sum(c.flips * c.trials for c in stored.cells if c.fault.startswith("BitFlip"))
    assert f"In all {flips:,.0f} bits were flipped, where " in text
    assert "into the outputs of layers stored as" in text
    assert "model: small-cnn data: <digits> seed: 3" in text
    assert "Accuracy of small-cnn on <digits> under faults" in text
    rows = page.table("variant", "thresholds")
    assert rows[0][0] == HOSTILE[0]
    assert rows[0][-2:] == ["not measured"] * 2
    assert rows[1][-2:] == ["91.2", "1.25 \N{MULTIPLICATION SIGN}"]
    (session,) = page.table("started (UTC)")
    assert session[2:4] == ["finished", f"{5 * 4 * 12}"]
    assert version("torch") in session[4]


def test_figures_for_one_rate_are_left_out(page: Page, written: dict[str, Path]) -> None:
    """A line takes two rates: activations and exact flips have tables alone."""
    assert "accuracy-1.svg" not in written
    labels = [attributes.get("aria-label") for _, attributes in page.tags]
    assert [label for label in labels if label] == [
        "top-1 accuracy over bit error rate under BitFlip",
        f"paired difference to {HOSTILE[0]} over bit error rate",
        *(f"distribution of the top-1 accuracy of trials at {ber}" for ber in rates()),
        "loss by layer under ExactFlips(1) in it alone",
        "loss by bit under ExactFlips(1) in it alone",
    ]


def rates() -> list[str]:
    return ["1e-5", "1e-4", "1e-3"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("at", "chosen"), [(0.0001, "at-2"), *slow((1e-5, "at-1"), (1.00001e-3, "at-3"))]
)
def test_the_distribution_that_is_shown_first(
    at: float, chosen: str, store: Path, tmp_path: Path
) -> None:
    assert checked(Page(write_report(store, tmp_path, at=at)["html"])) == [chosen]


def test_by_default_the_most_divided_rate_comes_first(page: Page, stored: Result) -> None:
    spread = {}
    for position, fault in enumerate(("1e-05", "0.0001", "0.001"), start=1):
        values = stored.values(HOSTILE[0], f"BitFlip({fault})")
        seen, shares = map(np.array, zip(*values, strict=True))
        spread[f"at-{position}"] = shares @ (seen - shares @ seen) ** 2
    assert checked(page) == [max(spread, key=spread.__getitem__)]


def test_csv_reads_back(written: dict[str, Path], stored: Result) -> None:
    expected = stored.to_pandas()
    # To the last digit, which pandas does not promise.
    with written["csv"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column, values in expected.items():
        kind = float if values.dtype.kind in "fi" else str
        assert [kind(row[str(column)]) for row in rows] == list(values)
    frame = pd.read_csv(written["csv"])
    assert list(frame.columns[len(expected.columns) :]) == [
        *("bits", "realised_ber", "finished", "needs_no_trial", "strata"),
    ]
    assert frame["finished"].all()
    is_transient = frame["fault"].str.startswith("ActivationFlip")
    assert (frame["bits"].isna() == is_transient).all()
    stored_bits = frame[~is_transient]
    assert np.allclose(stored_bits["realised_ber"], stored_bits["flips"] / stored_bits["bits"])


def test_markdown_shows_names_letter_by_letter(written: dict[str, Path], stored: Result) -> None:
    tables = tables_of(written["markdown"].read_text("utf-8"))
    costs = tables.pop()
    assert [row[0] for row in costs[1:]] == HOSTILE
    assert [table[0][1:] for table in tables] == [HOSTILE, HOSTILE[1:]] * 3
    assert tables[0][1] == ["no faults", *(f"{100 * stored.clean[name]:.1f}" for name in HOSTILE)]
    units = MetricUnits("top-1")
    cells = {(c.variant, rate(c.ber)): c for c in stored.cells if c.fault.startswith("BitFlip")}
    for ber, *values in tables[0][2:]:
        for name, text in zip(HOSTILE, values, strict=True):
            value = cells[name, ber].value
            assert text == f"{units.value(value.estimate)} ({units.interval(value)})"


@pytest.mark.parametrize("name", [*HOSTILE, "a*b*c", "[x](y)", "&lt;", "~~z~~", "# 1", "\\|"])
def test_markdown_escapes(name: str) -> None:
    ((heading, *_),) = tables_of(f"| {markdown(name)} |\n|---|\n")
    assert heading == [name]


def test_latex_escapes(written: dict[str, Path]) -> None:
    assert latex("a_b & 50 % of $x$ #1 {y}") == r"a\_b \& 50 \% of \$x\$ \#1 \{y\}"
    assert latex("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert latex("<a|b>") == r"\textless{}a\textbar{}b\textgreater{}", "OT1 has other signs there"
    assert latex("a--b") == "a-{}-b", "no dash"
    assert latex("[1]") == "{[}1{]}", "no optional argument"
    text = written["latex"].read_text("utf-8")
    for name in HOSTILE:
        assert text.count(latex(name)) == 3 + 3 + 1, "values, gains (or their titles), costs"
    assert latex("-0.4 (-1.5 to +0.2), 1e-5, a-1") == "$-$0.4 ($-$1.5 to +0.2), 1e-5, a-1"
    tables = re.findall(r"\\begin\{tabular\}\{(l\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert [len(columns) for columns, _ in tables] == [5, 4] * 3 + [7], "values, gains; costs"
    for columns, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert all(line.startswith("    {}") for line in lines), (
            "no star or length for the line above"
        )
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
        assert [rule in body for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    # Nothing but names and commands begins with a backslash, and no percent sign hides a line.
    assert not re.search(r"(?<!\\)[%#]", text)
