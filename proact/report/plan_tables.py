"""Tables of plans: encodings and guards within a memory budget."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table

from proact.report.tables import Column, make_table
from proact.report.units import interval_texts, percent, rate
from proact.results.statistics import Interval

if TYPE_CHECKING:
    from proact.protect import Plan, PlanRow

_GIVEN_UP_SHOWN = 3


def plan_table(plan: Plan) -> Table:
    """The remaining candidates, and the best of those that were given up; see `Plan.table`."""
    rates = [rate(each) for each in plan.ber]
    shown = [*plan.rows, *plan.given_up[:_GIVEN_UP_SHOWN]]
    some_clamped = any(row.saturated for row in shown)
    columns: list[Column | str] = [
        Column("encoding", is_text=True),
        Column("guard", is_text=True),
        "accuracy %",
        "difference",
        *(f"at {each}" for each in rates if len(rates) > 1),
        "clean %",
        "clean cost",
        *([Column(("numbers", "clamped"))] if some_clamped else []),
        Column(("bits a", "weight")),
        Column(("bits a", "number")),
        Column(("decode", "ns a word")),
        Column(("time of", "a pass")),
        "trials",
    ]
    title = (
        f"Encodings and guards within {plan.budget:g} bits a weight at BER {', '.join(rates)}, "
        f"{100 * plan.confidence:g} % intervals, validation samples"
    )
    return make_table(
        columns, [_cells(plan, row, some_clamped) for row in shown], title, _caption(plan)
    )


def plan_frame(plan: Plan) -> pd.DataFrame:
    """See `Plan.to_pandas`."""
    frame: pd.DataFrame = pd.DataFrame(map(_record, (*plan.rows, *plan.given_up)))
    return frame


def _cells(plan: Plan, row: PlanRow, some_clamped: bool) -> list[str]:
    by_ber = [_percent(row.by_ber[each]) for each in plan.ber if len(plan.ber) > 1]
    return [
        row.encoding,
        row.guard,
        _percent(row.accuracy),
        "best" if row is plan.best else _percent(row.difference, "+"),
        *by_ber,
        percent(row.clean, 2),
        percent(row.clean_cost, 2),
        *([f"{row.saturated:,}"] if some_clamped else []),
        f"{row.bits_per_weight:.4g}",
        f"{row.bits:.4g}",
        f"{row.decode_ns:.3g}" if row.decode_ns else "",
        f"{row.latency:.2f}x",
        f"{row.trials}{' (given up)' if row.dropped else ''}",
    ]


def _caption(plan: Plan) -> str:
    counts = Counter(each.kind for each in plan.unmeasured)
    dropped = [f"{number} {kind}" for kind, number in counts.items()]
    why = Counter(row.dropped.partition(" after ")[0] for row in plan.given_up)
    dropped += [f"{number} {reason}" for reason, number in why.items()]
    parts = [f"dropped: {', '.join(dropped)}"] if dropped else []
    if not plan.is_margin_reached:
        parts.append(
            f"the trials ended before all intervals were within {100 * plan.margin:g} points"
        )
    parts.append("differences are paired; decoding is timed in numpy")
    return "; ".join(parts)


def _record(row: PlanRow) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in vars(row).items():
        if name == "by_ber":
            for ber, interval in value.items():
                record.update(_columns(f"accuracy_{ber:g}", interval))
        elif isinstance(value, Interval):
            record.update(_columns(name, value))
        else:
            record[name] = value
    return record


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _percent(interval: Interval, sign: str = "") -> str:
    estimate, low, high = interval_texts(interval, lambda end, more: percent(end, 2 + more, sign))
    return f"{estimate} [{low}, {high}]"
