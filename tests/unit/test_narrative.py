"""Do verdicts say what the intervals show, and nothing else?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from built_cells import LINE, cell

from proact.report.analysis import Analysis, Family
from proact.report.narrative import verdict
from proact.report.units import MetricUnits
from proact.report.variant_cost import VariantCost, cost_of
from proact.report.verdicts import holds_until, largest_gain, losses
from proact.results.cells import CellResult
from proact.results.run_log import MemoryUse, Variant
from proact.results.statistics import Interval


def test_it_holds_as_long_as_intervals_exclude_the_loss() -> None:
    assert holds_until(LINE, 0.05, True) is LINE[1], "the third may lose 6 points; no later counts"
    assert holds_until(LINE, 0.045, True) is LINE[0]
    assert holds_until(LINE, 0.061, True) is LINE[3]
    assert holds_until(LINE, 0.01, True) is None
    assert holds_until([], 0.05, True) is None
    # Of a metric that grows with the damage, the upper end is the bad one.
    worse = [cell(1e-6, (0.1, 0.0, 0.14), 0.1), cell(1e-5, (0.12, 0.1, 0.16), 0.1)]
    assert holds_until(worse, 0.05, False) is worse[0]
    assert holds_until(worse, 0.05, True) is None


def test_gains_and_losses_are_those_that_intervals_show() -> None:
    gains = {
        "a": Interval(0.3, -0.01, 0.6),
        "b": Interval(0.1, 0.05, 0.15),
        "c": Interval(0.2, 0.01, 0.4),
        "d": Interval(-0.2, -0.3, -0.1),
        "e": Interval(-0.4, -0.9, 0.0),
    }
    assert largest_gain(gains, True) == ("c", gains["c"])
    assert losses(gains, True) == ["d"]
    assert largest_gain(gains, False) == ("d", gains["d"])
    assert losses(gains, False) == ["b", "c"]
    assert largest_gain({"a": gains["a"]}, True) is None
    assert (largest_gain({}, True), losses({}, True)) == (None, [])


NO_COST = VariantCost(0, 0, 0.0, 0.0, 0.9, None, None)


def analysis_of(
    lines: Mapping[str, Sequence[CellResult]],
    gains: Mapping[str, Mapping[str, Interval]],
    units: MetricUnits | None = None,
    highest: float = 1.0,
    cost: VariantCost = NO_COST,
    limit: float = 0.05,
) -> Analysis:
    """As much of a campaign's analysis as a verdict needs; the first variant is the baseline."""
    units = units or MetricUnits("top-1")
    faults = {each.fault: each.ber for line in lines.values() for each in line}
    cells = {(name, each.fault): each for name, line in lines.items() for each in line}
    variants = {name: SimpleNamespace(clean=line[0].clean) for name, line in lines.items() if line}
    run = SimpleNamespace(
        lowest=0.0, highest=highest, is_better_higher=units.is_better_higher, variant=variants.get
    )
    analysis = SimpleNamespace(
        family_of_verdicts=Family("BitFlip", faults, cells, gains),
        units=units,
        run=run,
        baseline=next(iter(lines)),
        costs=dict.fromkeys(lines, cost),
        limit=limit,
    )
    return cast(Analysis, analysis)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_verdict_of_the_baseline() -> None:
    assert plain(verdict(analysis_of({"relu": LINE}, {}), "relu")) == (
        "is shown to stay within 5 points of its clean top-1 accuracy of 90.0 % up to a bit error "
        "rate of 1e-5, where it is 89.0 % (85.1 to 90.0); at 1e-4 it is 88.0 % (84.0 to 90.0)."
    )
    assert plain(verdict(analysis_of({"relu": LINE[:2]}, {}), "relu")) == (
        "is shown to stay within 5 points of its clean top-1 accuracy of 90.0 % up to a bit error "
        "rate of 1e-5, where it is 89.0 % (85.1 to 90.0), the highest tested rate."
    )
    assert plain(verdict(analysis_of({"relu": LINE[2:]}, {}), "relu")) == (
        "is not shown to stay within 5 points of its clean top-1 accuracy of 90.0 % at any tested "
        "rate: at 1e-4 it is 88.0 % (84.0 to 90.0)."
    )
    missing = replace(LINE[0], trials=0, is_finished=False)
    assert verdict(analysis_of({"relu": [missing]}, {}), "relu") == "has no trials yet."


def test_a_verdict_with_another_limit() -> None:
    said = plain(verdict(analysis_of({"relu": LINE}, {}, limit=0.03), "relu"))
    assert said.startswith(
        "is shown to stay within 3 points of its clean top-1 accuracy of 90.0 % up to a bit error "
        "rate of 1e-6, "
    )


def test_a_small_limit_is_not_rounded_away() -> None:
    said = plain(verdict(analysis_of({"relu": LINE}, {}, limit=0.0004), "relu"))
    assert said.startswith("is not shown to stay within 0.04 points of")


def test_a_verdict_ends_at_a_rate_without_trials() -> None:
    gap = replace(LINE[1], trials=0, is_finished=False)
    said = plain(verdict(analysis_of({"relu": [LINE[0], gap, LINE[3]]}, {}), "relu"))
    assert "up to a bit error rate of 1e-6, " in said
    assert said.endswith("; at 1e-5 it has no trials yet.")
    first = replace(LINE[0], trials=0, is_finished=False)
    said = plain(verdict(analysis_of({"relu": [first, LINE[1]]}, {}), "relu"))
    assert said.endswith("at any tested rate: at 1e-6 it has no trials yet.")


def test_a_verdict_of_another_variant() -> None:
    lines = {"relu": LINE, "new": [replace(each, variant="new", clean=0.88) for each in LINE[:2]]}
    gains = {
        "new": {
            LINE[0].fault: Interval(-0.02, -0.03, -0.01),
            LINE[1].fault: Interval(0.123, 0.1, 0.15),
        }
    }
    cost = VariantCost(10, 4, 56.0, 0.0512, 0.88, None, 1.237)
    said = plain(verdict(analysis_of(lines, gains, cost=cost), "new"))
    assert said.endswith(
        "; its largest gain over relu is 12.3 points (+10.0 to +15.0), at 1e-5; it is worse than "
        "relu at 1e-6; it costs 2.0 points of the clean top-1 accuracy, 56 bytes (0.051 % "
        "more numbers to store) and 1.24 times the time of a forward pass."
    )
    unshown = {"new": {LINE[0].fault: Interval(0.1, -0.1, 0.3)}}
    said = plain(verdict(analysis_of(lines, unshown), "new"))
    assert said.endswith("; no gain over relu is shown at any tested rate.")
    many = replace(cost, percent=1234.5, clean=0.9, latency=None)
    said = plain(verdict(analysis_of(lines, gains, cost=many), "new"))
    assert said.endswith("it costs 56 bytes (1,234 % more numbers to store).")
    better = replace(NO_COST, clean=0.91)
    said = plain(verdict(analysis_of(lines, gains, cost=better), "new"))
    assert said.endswith("it costs -1.0 points of the clean top-1 accuracy.")


def test_a_verdict_over_numbers_of_flips() -> None:
    """Variants store different numbers of bits: n flips are another rate in each."""
    line = [
        replace(cell(n * 1e-6, ends, 0.9), fault=f"ExactFlips({n})", trials=10)
        for n, ends in ((1, (0.89, 0.88, 0.9)), (3, (0.85, 0.84, 0.86)))
    ]
    analysis = analysis_of({"relu": line}, {})
    family = Family("ExactFlips", {each.fault: n for each, n in zip(line, (1, 3), strict=True)},
                    analysis.family_of_verdicts.cells, {})  # fmt: skip
    cast(SimpleNamespace, analysis).family_of_verdicts = family
    assert plain(verdict(analysis, "relu")) == (
        "is shown to stay within 5 points of its clean top-1 accuracy of 90.0 % up to 1 flip, "
        "where it is 89.0 % (88.0 to 90.0); at 3 flips it is 85.0 % (84.0 to 86.0)."
    )
    holds = replace(line[0], value=Interval(0.5, 0.4, 0.6))
    family.cells["relu", line[0].fault] = holds  # type: ignore[index]
    assert "at any tested number of flips: at 1 flip it is 50.0 %" in plain(
        verdict(analysis, "relu")
    )


def test_a_verdict_in_nats() -> None:
    line = [replace(cell(1e-5, (0.5, 0.4, 0.9), 0.25), metric="loss")]
    lines = {"relu": line, "new": line}
    gains = {"new": {line[0].fault: Interval(-0.3, -0.4, -0.2)}}
    units = MetricUnits("loss", False, False)
    analysis = analysis_of(lines, gains, units, 20.0, replace(NO_COST, clean=0.3), limit=1.0)
    assert plain(verdict(analysis, "new")) == (
        "is shown to stay within 1 nats of its clean cross-entropy of 0.25 nats up to a bit error "
        "rate of 1e-5, where it is 0.5 nats (0.4 to 0.9), the highest tested rate; its largest "
        "gain over relu is 0.3 nats (-0.4 to -0.2), at 1e-5; it costs 0.05 nats of the clean "
        "cross-entropy."
    )


def test_costs_are_counted_from_what_a_variant_stores() -> None:
    memory = {
        "weight": MemoryUse(900, 900 * 32),
        "bias": MemoryUse(100, 3200),
        "threshold": MemoryUse(6, 96),
        "bound": MemoryUse(4, 128),
    }
    variant = Variant("new", "Net", 0.88, "0" * 64, memory)
    assert cost_of(variant, {}) == VariantCost(6, 4, 28.0, 1.0, 0.88, None, None)
    noted = cost_of(variant, {"clean_soft": 0.9, "latency": 1.5, "thresholds": 7, "bytes": None})
    assert (noted.soft, noted.latency, noted.thresholds) == (0.9, 1.5, 6)
    bare = cost_of(replace(variant, memory={"weight": MemoryUse(9, 288)}), {"latency": None})
    assert bare == VariantCost(0, 0, 0.0, 0.0, 0.88, None, None)
