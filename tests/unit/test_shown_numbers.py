"""Are numbers shown so that rounding does not change what they say?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pages import Page
from torch import nn

from proact import campaign
from proact.campaign import Metric
from proact.faults import BitFlip, ExactFlips
from proact.report import write_report
from proact.report.units import MetricUnits, decimal, percent
from proact.results.statistics import Interval

INPUTS = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0.0"),
        (1.0, "100.0"),
        (0.948, "94.8"),
        (0.0003, "0.03"),
        (3e-9, "3e-07"),
        (0.9997, "99.97"),
        (0.99999994, "99.99999"),
        (-0.0003, "-0.03"),
        (-0.9997, "-99.97"),
        (1.0 - 1e-16, "100.0"),
        (-1e-17, "0.0"),
        (0.1 + 0.2 - 0.3, "0.0"),
    ],
)
def test_rounding_makes_neither_none_nor_all(share: float, shown: str) -> None:
    assert percent(share, 1) == shown
    assert MetricUnits("top-1").value(share) == shown


def test_differences_have_a_sign_unless_they_are_0() -> None:
    units = MetricUnits("top-1")
    assert [units.difference(each) for each in (0.151, -0.0, -1e-17, -0.0001, 0.0004)] == [
        *("+15.1", "+0.0", "+0.0", "-0.01", "+0.04")
    ]
    assert units.amount(0.0004) == "0.04 points"


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        (Interval(0.948, 0.938, 0.952), "94.8 (93.8 to 95.2)"),
        (Interval(0.00312, 0.00308, 0.00313), "0.312 (0.308 to 0.313)"),
        (Interval(0.5, 0.5, 0.5), "50.0 (50.0 to 50.0)"),
        (Interval(0.5, 0.5 - 1e-17, 0.5 + 1e-17), "50.0 (50.0 to 50.0)"),
        (Interval(3.31e-9, 3.29e-9, 3.32e-9), "3.31e-07 (3.29e-07 to 3.32e-07)"),
    ],
)
def test_ends_that_differ_are_shown_as_different(interval: Interval, shown: str) -> None:
    units = MetricUnits("top-1")
    assert f"{units.estimate(interval)} ({units.interval(interval)})" == shown


def test_ends_of_differences_and_losses_are_shown_as_different() -> None:
    units, loss = MetricUnits("top-1"), MetricUnits.of_range("loss", 0.0, 10.0, False)
    gain = Interval(0.00021, 0.00018, 0.00024)
    assert units.estimate_of_difference(gain) == "+0.021"
    assert units.interval_of_difference(gain) == "+0.018 to +0.024"
    assert loss.interval(Interval(2.3012, 2.3011, 2.3013)) == "2.3011 to 2.3013"


def test_other_numbers_are_not_rounded_to_0_or_1() -> None:
    assert [decimal(each, 1) for each in (0.0, 0.013, 0.96, 1234.56)] == [
        *("0.0", "0.01", "1.0", "1,234.6")
    ]
    cosine = MetricUnits.of_range("cosine", -1.0, 1.0, True)
    assert [cosine.value(each) for each in (1.0, 0.9997, -0.9999, 0.123456)] == [
        *("1", "0.9997", "-0.9999", "0.123")
    ]


def test_a_page_shows_rare_corruptions_and_small_margins(tmp_path: Path) -> None:
    def rare(out: torch.Tensor, targets: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return 1.0 - 0.0004 * (out.argmax(1) != clean.argmax(1)).double()

    store = tmp_path / "rows.sqlite"
    result = campaign.run(
        {"a": network()}, INPUTS, [BitFlip(1e-2)], executor=1, store=store,
        metric=Metric("rare", rare, needs_targets=False), margin=0.0004, trials=40, strata=False,
    )  # fmt: skip
    assert 0.9995 < result.cells[0].value.estimate < 1.0
    page = Page(write_report(store, tmp_path)["html"])
    row = page.table("BER per bit", "a")[1]
    assert row[1].startswith("99.9")
    assert "half the width of the interval was 0.04 points" in page.text


def test_a_page_says_where_the_margin_was_not_reached(tmp_path: Path) -> None:
    store = tmp_path / "rows.sqlite"
    model = network()
    labels = model(INPUTS).argmax(1)
    result = campaign.run(
        {"a": model}, (INPUTS, labels), [BitFlip(1e-6), BitFlip(1e-2)], executor=1, store=store,
        margin=0.05, trials=10, strata=False,
    )  # fmt: skip
    assert result.cells[1].value.half_width > 0.05
    text = Page(write_report(store, tmp_path)["html"]).text
    assert "The largest number of trials ended a at 1e-2: the interval there is wider." in text


def test_sweeps_in_one_figure_have_one_confidence(tmp_path: Path) -> None:
    store = tmp_path / "rows.sqlite"
    models = {"a": network(), "b": network(1)}
    data = (INPUTS, models["a"](INPUTS).argmax(1))
    campaign.run(models, data, [BitFlip(1e-3)], executor=1, store=store, trials=10)
    found = {
        name: campaign.per_layer(
            model, data, ExactFlips(1), trials=60, store=store, executor=1, name=name,
            confidence=confidence,
        )
        for (name, model), confidence in zip(models.items(), (0.95, 0.5), strict=True)
    }  # fmt: skip
    page = Page(write_report(store, tmp_path)["html"])
    tables = [each for each in page.tables if each[0][:2] == ["layer", "share of bits, %"]]
    assert len(tables) == 2
    assert "with its 50\N{NO-BREAK SPACE}% interval. To compare" in page.text
    units = MetricUnits("top-1")
    for table, sweep in zip(tables, found.values(), strict=True):
        parts = sweep.at_confidence(0.5).strata
        shown = [f"{units.fine(part.loss.low)} to {units.fine(part.loss.high)}" for part in parts]
        assert [row[3] for row in table[1:]] == shown


def test_the_metric_before_hardening_has_the_unit_of_the_metric(tmp_path: Path) -> None:
    store = tmp_path / "rows.sqlite"
    data = (INPUTS, torch.arange(60) % 4)
    campaign.run(
        {"a": network()}, data, [BitFlip(1e-3)], executor=1, store=store, trials=5, metric="loss",
        notes={"costs": {"a": {"clean_soft": 1.234}}},
    )  # fmt: skip
    text = write_report(store, tmp_path)["html"].read_text("utf-8")
    assert "<th>before hardening in nats</th>" in text
    (row,) = [table[1] for table in Page(tmp_path / "report.html").tables if "bytes" in table[0]]
    assert row[-2] == "1.23"
