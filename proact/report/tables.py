"""Makes tables for the terminal (rich) and data frames (pandas)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table
from rich.text import Text

from proact.report.analysis import mark
from proact.report.units import MetricUnits, decimal, percent, rate
from proact.results.cells import CellDetails, CellResult
from proact.results.result import Result
from proact.results.statistics import Interval
from proact.text import MOST_OF_CELL, label


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its title, or the lines of its title.
        is_text: whether it is aligned to the left.
        footer: below its last row.
    """

    heading: str | tuple[str, ...]
    is_text: bool = False
    footer: str = ""


def make_table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    caption: str | None = None,
    *,
    grouped: bool = False,
    show_header: bool = True,
) -> Table:
    """A table of rich; every table of proact is made here.

    Nothing in it is markup. Headings and cells are shown by `label`.

    Args:
        columns: a text is the heading of a column of numbers.
        rows: their cells are shown as ``str`` shows them, a tuple with one line for each element.
        title, caption: sentences, in which names are labels already.
        grouped: whether rows with the same first cell stand together: the cell is shown once, and a
            line separates the groups.
    """
    table = Table(
        title=None if title is None else Text(title),
        caption=None if caption is None else Text(caption),
        show_header=show_header,
    )
    for each in columns:
        column = Column(each) if isinstance(each, str) else each
        table.add_column(
            _shown(column.heading),
            _shown(column.footer),
            justify="left" if column.is_text else "right",
            overflow="fold",
        )
        table.show_footer |= bool(column.footer)
    for first, group in groupby(rows, key=lambda row: row[0] if grouped else None):
        for index, row in enumerate(group):
            cells = list(map(_shown, row))
            table.add_row(Text() if grouped and index else cells[0], *cells[1:])
        if grouped and first is not None:
            table.add_section()
    return table


def _shown(cell: object) -> Text:
    """A cell as text without markup and emoji codes; most cells are names or numbers."""
    lines = cell if isinstance(cell, tuple) else (cell,)
    return Text("\n".join(label(line, MOST_OF_CELL) for line in lines))


def cells_frame(result: Result, with_details: bool = False) -> pd.DataFrame:
    """One row per cell; accuracies and shares in [0, 1]."""
    details = result.details() if with_details else {}
    frame: pd.DataFrame = pd.DataFrame(
        # The metric may be the loss, which is among the details too.
        {**_summary(cell), **_detail_columns(details.get((cell.variant, cell.fault))), **values}
        for cell in result.cells
        for values in [{metric_column(cell.metric): cell.value.estimate}]
    )
    return frame


def _summary(cell: CellResult) -> dict[str, Any]:
    sdc = cell.sdc or Interval(math.nan, math.nan, math.nan)
    return {
        "variant": cell.variant,
        "fault": cell.fault,
        "ber": cell.ber,
        metric_column(cell.metric): cell.value.estimate,
        "low": cell.value.low,
        "high": cell.value.high,
        "sdc": sdc.estimate,
        "sdc_low": sdc.low,
        "sdc_high": sdc.high,
        "clean": cell.clean,
        "trials": cell.trials,
        "failed": cell.failed,
        "flips": cell.flips,
        "non_finite": cell.non_finite,
        "raised": cell.raised,
    }


def metric_column(metric: str) -> str:
    """The column of a metric; its name may be that of another column."""
    if metric == "top-1":
        return "accuracy"
    return f"{metric} (metric)" if _OTHER_COLUMNS.fullmatch(metric) else metric


_OTHER_COLUMNS = re.compile(
    "variant|fault|ber|low|high|clean|trials|failed|flips|non_finite|raised|bits|realised_ber"
    "|finished|needs_no_trial|strata|((sdc|sdc5|sdc10|sdc20|top5|critical|quantile_.*)(_low|_high)?)"
)


#: Shares that a cell has without its details.
_IN_CELLS = ("non_finite", "raised")


def _detail_columns(details: CellDetails | None) -> dict[str, Any]:
    if details is None:
        return {}
    intervals = {
        **{name: share for name, share in details.shares.items() if name not in _IN_CELLS},
        "critical": details.critical,
        **{f"quantile_{level:g}": value for level, value in details.quantiles.items()},
    }
    columns: dict[str, Any] = {}
    for name, interval in intervals.items():
        columns[name], columns[f"{name}_low"], columns[f"{name}_high"] = interval
    return {**columns, "loss": details.loss}


def strata_frame(result: Result) -> pd.DataFrame:
    """One row per stratum of a sweep: its name, share, value and loss with intervals, trials."""
    frame: pd.DataFrame = pd.DataFrame(
        {
            result.spec.kind: stratum.name,
            "share": stratum.share,
            "value": stratum.value.estimate,
            "low": stratum.value.low,
            "high": stratum.value.high,
            "loss": stratum.loss.estimate,
            "loss_low": stratum.loss.low,
            "loss_high": stratum.loss.high,
            "trials": stratum.trials,
        }
        for stratum in result.strata
    )
    return frame


def cells_table(result: Result) -> Table:
    """Variant x fault: the metric, its interval, mean realised flips, trials."""
    units = MetricUnits.of(result.spec)
    heading, shown = _fault_column([(cell.fault, cell.ber) for cell in result.cells])
    rows = [
        (
            cell.variant,
            shown(cell.fault, cell.ber),
            "no trials" if cell.is_missing else units.estimate(cell.value),
            units.interval(cell.value),
            decimal(cell.flips, 1) if cell.trials else "",
            _trials_text(cell),
        )
        for cell in result.cells
    ]
    metric = f"{units.name} {units.unit}".strip()
    interval = f"{100 * result.confidence:g} % interval"
    columns: list[Column | str] = [
        Column("variant", is_text=True),
        heading,
        metric,
        interval,
        "mean flips",
        "trials",
    ]
    title = f"{label(units.heading)} under faults"
    return make_table(columns, rows, title, grouped=True)


def _trials_text(cell: CellResult) -> str:
    if cell.needs_no_trial:
        return mark(cell)
    strata = f"in {len(cell.sampled_strata)} strata" if cell.strata else ""
    return " ".join(part for part in (f"{cell.trials:,}", strata, mark(cell)) if part)


class Gain(NamedTuple):
    """The gain of a variant over a baseline under one fault, on the same faults and images; ``ber``
    is the fault's expected bit error rate, per exposed bit, and ``pairs`` the number of trials that
    both have."""

    variant: str
    fault: str
    ber: float
    gain: Interval
    pairs: int


def gains_of(result: Result, baseline: str) -> list[Gain]:
    """The gains of all other variants over ``baseline``."""
    return [
        Gain(variant, fault, result.states[variant, fault].spec.ber, gain, pairs[fault])
        for variant in result.clean
        if variant != baseline
        for pairs in [result.pairs(variant, baseline)]
        for fault, gain in result.difference(variant, baseline).items()
    ]


def gains_table(result: Result, baseline: str) -> Table:
    """The gains over ``baseline``, variants together."""
    units, gains = MetricUnits.of(result.spec), gains_of(result, baseline)
    heading, shown = _fault_column([(gain.fault, gain.ber) for gain in gains])
    rows = [
        (
            each.variant,
            shown(each.fault, each.ber),
            units.estimate_of_difference(each.gain),
            units.interval_of_difference(each.gain),
            f"{each.pairs:,}",
        )
        for each in gains
    ]
    unit = f" ({units.unit_of_differences})" if units.unit_of_differences else ""
    interval = f"{100 * result.confidence:g} % interval"
    columns: list[Column | str] = [
        *(Column("variant", is_text=True), heading),
        *("difference", interval, "pairs"),
    ]
    return make_table(
        columns, rows, f"Difference to {label(baseline)} on the same faults{unit}", grouped=True
    )


def _fault_column(
    faults: Sequence[tuple[str, float]],
) -> tuple[str, Callable[[str, float], str]]:
    """The heading and the text of the column that distinguishes the rows of a variant: the rates if
    all faults are `BitFlip` on all bits, else the faults."""
    if all(re.fullmatch(r"BitFlip\([^,{]*\)", fault) for fault, _ in faults):
        return "BER per bit", lambda fault, ber: rate(ber)
    return "fault", lambda fault, ber: fault


def strata_table(result: Result, title: str | None = None) -> Table:
    """The strata of a sweep; those that lose most come first."""
    units, whole, kind = MetricUnits.of(result.spec), result.whole, result.spec.kind
    (clean,) = result.clean.values()
    rows = [
        (
            part.name,
            percent(part.share, 2),
            "no trials" if part.is_missing else units.estimate(part.loss, 1),
            units.interval(part.loss, 1),
            f"{part.trials:,}",
        )
        for part in sorted(result.strata, key=lambda part: -part.loss.estimate)
    ]
    unit = f" in {units.unit_of_differences}" if units.unit_of_differences else ""
    interval = f"{100 * result.confidence:g} % interval"
    columns: list[Column | str] = [
        Column(kind, is_text=True),
        "share of bits %",
        f"loss{unit}",
        interval,
        "trials",
    ]
    caption = (
        f"whole model: {units.estimate(whole, 1)} ({units.interval(whole, 1)}), "
        f"{units.fine(clean)} clean"
    )
    return make_table(columns, rows, title or f"Loss by {kind}", caption)
