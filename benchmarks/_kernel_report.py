"""What benchmarks/kernels.py leaves: tables, one line a goal, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import _flip_kernels as flips
import _hyrelu_kernels as hyrelu
from _flip_memory import PeakMemory
from _timing import NOISY, Goal, Row, threads_text
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

GOALS = (*hyrelu.GOALS, *flips.GOALS)
# M. Okabe and K. Ito's palette, which colour-blind readers can tell apart; markers differ as well.
_COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = "osD^vPX"


def hyrelu_table(rows: Sequence[Row]) -> Table:
    table = _table("HyReLU", rows, [("GB/s", "of a copy's")])
    for row in rows:
        speed, share = row.gigabytes_per_second, row.share_of_copy
        _add(table, row, [] if speed is None or share is None else [f"{speed:.1f}, {share:.0%}"])
    return table


def flips_table(rows: Sequence[Row]) -> Table:
    table = _table("inject + restore, float32 parameters, every bit exposed", rows, [])
    for row in rows:
        _add(table, row, [])
    return table


def _table(title: str, rows: Sequence[Row], more: list[tuple[str, str]]) -> Table:
    table = Table(title=title)
    table.add_column("question", overflow="fold")
    table.add_column("where", overflow="fold")
    table.add_column(f"ours\nns/{rows[0].unit}" if rows else "ours", justify="right")
    for first, second in more:
        table.add_column(f"{first},\n{second}", justify="right")
    table.add_column("ratio (quartiles)", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("reached")
    return table


def _add(table: Table, row: Row, more: list[str]) -> None:
    table.add_row(
        row.question,
        row.where,
        f"{row.nanoseconds:.3g}",
        *more,
        f"{'~' if row.noisy else ''}{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})",
        "" if row.goal is None else str(row.goal),
        {None: "", True: "yes", False: "NO"}[row.reached],
    )


def verdict(goal: Goal, rows: Sequence[Row]) -> str:
    """One line: reached or missed, and the worst ratio."""
    mine = [row for row in rows if row.goal == goal]
    if not mine:
        return f"not measured  {goal.name}"
    worst = goal.worst(mine)
    reached = sum(bool(row.reached) for row in mine)
    return (
        f"{'reached     ' if reached == len(mine) else 'MISSED      '}  {goal.name}: "
        f"{reached} of {len(mine)} rows, worst {worst.ratio:.2f} ({worst.where})"
    )


def memory_lines(peaks: Sequence[PeakMemory]) -> list[str]:
    if not peaks:
        return ["peak memory: not measured, it needs Linux' /proc"]
    return [
        f"peak memory of inject + restore: {peak.bytes_per_flip:.1f} bytes a flip "
        f"({peak.flips:,} flips, {peak.extra_bytes / 1e6:.1f} MB more than before, in a model of "
        f"{peak.model_bytes / 1e6:.1f} MB, {threads_text(peak.threads)})"
        for peak in peaks
    ]


def noise_line(rows: Sequence[Row]) -> str:
    noisy = sum(row.noisy for row in rows)
    if not noisy:
        return ""
    return (
        f"warning: a noisy machine: in {noisy} of {len(rows)} rows (marked ~) the quartiles of the "
        f"times lie more than {NOISY:.0%} of the median apart"
    )


def write_json(
    path: Path, rows: Sequence[Row], peaks: Sequence[PeakMemory], settings: dict[str, Any]
) -> None:
    document = {
        "settings": settings,
        "rows": [_as_dict(row) for row in rows],
        "goals": [_verdict_dict(goal, rows) for goal in GOALS],
        "peak_memory": [{**asdict(peak), "bytes_per_flip": peak.bytes_per_flip} for peak in peaks],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _as_dict(row: Row) -> dict[str, Any]:
    return {
        **row.labels,
        "question": row.question,
        "unit": row.unit,
        "nanoseconds": row.nanoseconds,
        "ratio": row.ratio,
        "quartiles": [row.low, row.high],
        "noisy": row.noisy,
        "goal": None if row.goal is None else row.goal.name,
        "reached": row.reached,
        "gigabytes_per_second": row.gigabytes_per_second,
        "share_of_copy": row.share_of_copy,
    }


def _verdict_dict(goal: Goal, rows: Sequence[Row]) -> dict[str, Any]:
    mine = [row for row in rows if row.goal == goal]
    return {
        "name": goal.name,
        "limit": goal.limit,
        "at_most": goal.at_most,
        "rows": len(mine),
        "reached": all(row.reached for row in mine) if mine else None,
        "worst": goal.worst(mine).ratio if mine else None,
    }


def write_plot(path: Path, rows: Sequence[Row]) -> None:
    """Ratios over size and over BER, the goals as dashed lines; the ending decides the format."""
    panels = [
        (draw, mine)
        for draw, belongs in (
            (_draw_hyrelu, _is_over_size),
            (_draw_numpy, lambda row: row.labels["against"] in (flips.SORTING, flips.UNIQUE)),
            (_draw_floor, lambda row: row.labels["against"] == flips.FLOOR),
        )
        if (mine := [row for row in rows if belongs(row)])
    ]
    figure = Figure(figsize=(6.0 * max(1, len(panels)), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (draw, mine) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        draw(axes, mine)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def _is_over_size(row: Row) -> bool:
    """One T for the whole tensor, float32, one thread: the rows that share a size axis."""
    label = row.labels
    return (
        label["against"] == hyrelu.RELU
        and label["work"] != "soft forward"
        and (label["granularity"], label["dtype"], label["threads"]) == ("layer", "float32", 1)
    )


def _draw_hyrelu(axes: Axes, rows: Sequence[Row]) -> None:
    lines: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row.labels['work']}, T {row.labels['placement']}"
        lines.setdefault(name, []).append(row)
    _draw_lines(axes, lines, "bytes")
    for goal in (hyrelu.ZERO, hyrelu.SOFT_SPARSE, hyrelu.SOFT_BULK):
        _draw_goal(axes, goal, label="top" if goal == hyrelu.ZERO else "bottom")
    axes.set_xlabel("size of the tensor (bytes), float32, 1 thread")
    axes.set_ylabel("time over torch.relu")


def _draw_numpy(axes: Axes, rows: Sequence[Row]) -> None:
    _draw_lines(axes, _by_network(rows), "ber")
    for (_, ber), goal in flips.NUMPY_GOALS.items():
        axes.plot([ber / 1.6, ber * 1.6], [goal.limit] * 2, "k--", linewidth=0.8)
    axes.set_xlabel("bit error rate (probability per stored bit), 1 thread")
    axes.set_ylabel("times faster (goals dashed)")


def _draw_floor(axes: Axes, rows: Sequence[Row]) -> None:
    _draw_lines(axes, _by_network(rows), "ber")
    _draw_goal(axes, flips.FLOOR_GOAL)
    axes.set_xlabel("bit error rate (probability per stored bit), 1 thread")
    axes.set_ylabel("time over XORing a drawn list twice")


def _by_network(rows: Sequence[Row]) -> dict[str, list[Row]]:
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(f"{row.labels['network']}, {row.labels['against']}", []).append(row)
    return lines


def _draw_lines(axes: Axes, lines: dict[str, list[Row]], over: str) -> None:
    for index, (name, mine) in enumerate(lines.items()):
        # Quartiles of the ratios round by round need not enclose the ratio of medians.
        spread = [
            [max(0.0, row.ratio - row.low) for row in mine],
            [max(0.0, row.high - row.ratio) for row in mine],
        ]
        axes.errorbar(
            [float(row.labels[over]) for row in mine],
            [row.ratio for row in mine],
            yerr=spread,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
            label=name,
        )


def _draw_goal(axes: Axes, goal: Goal, label: Literal["top", "bottom"] = "bottom") -> None:
    """``label`` is the side of the text that touches the line."""
    axes.axhline(goal.limit, color="black", linestyle="--", linewidth=0.8)
    axes.annotate(
        f"goal {goal}",
        (1.0, goal.limit),
        xycoords=("axes fraction", "data"),
        ha="right",
        va=label,
        fontsize="small",
    )
