"""The output of benchmarks/kernels.py: tables, one line per goal, JSON and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import _flip_kernels as flips
import _gpu_flips as gpu_flips
import _hyrelu_kernels as hyrelu
from _flip_memory import PeakMemory
from _timing import NOISY, Goal, Row, threads_text
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from proact.report.tables import Column, make_table

GOALS = (*hyrelu.GOALS, *flips.GOALS)
GPU_GOALS = (*hyrelu.GPU_GOALS, *gpu_flips.GOALS)
# The palette of M. Okabe and K. Ito is safe for colour-blind readers; markers differ as well.
_COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = "osD^vPX"


def hyrelu_table(rows: Sequence[Row]) -> Table:
    traffic = [
        ""
        if row.gigabytes_per_second is None or row.share_of_copy is None
        else f"{row.gigabytes_per_second:.1f}, {row.share_of_copy:.0%}"
        for row in rows
    ]
    return _table("HyReLU", rows, {"GB/s,\nof a copy's": traffic})


def flips_table(rows: Sequence[Row]) -> Table:
    return _table("inject + restore, float32 parameters, every bit exposed", rows, {})


def _table(title: str, rows: Sequence[Row], more: Mapping[str, Sequence[str]]) -> Table:
    """One row per comparison; ``more`` are further columns by heading."""
    columns: list[Column | str] = [
        Column("question", is_text=True),
        Column("case", is_text=True),
        f"proact\nns/{rows[0].unit}" if rows else "proact",
        *more,
        "ratio (quartiles)",
        "goal",
        Column("reached", is_text=True),
    ]
    shown = [
        (
            row.question,
            row.case,
            f"{row.nanoseconds:.3g}",
            *(column[index] for column in more.values()),
            row.ratio,
            row.goal or "",
            "" if row.goal is None else row.goal.verdict(row.ratio.value),
        )
        for index, row in enumerate(rows)
    ]
    return make_table(columns, shown, title)


def verdict(goal: Goal, rows: Sequence[Row]) -> str:
    """One line: whether all rows reach the goal, and the worst ratio."""
    mine = [row for row in rows if row.goal == goal]
    if not mine:
        return f"not measured  {goal.name}"
    worst = goal.worst(mine)
    reached = sum(bool(row.reached) for row in mine)
    return (
        f"{'reached     ' if reached == len(mine) else 'MISSED      '}  {goal.name}: "
        f"{reached} of {len(mine)} rows, worst {worst.ratio.value:.2f} ({worst.case})"
    )


def memory_lines(peaks: Sequence[PeakMemory]) -> list[str]:
    if not peaks:
        return ["peak memory: not measured (it needs /proc of Linux)"]
    return [
        f"peak memory of inject + restore: {peak.bytes_per_flip:.1f} bytes per flip "
        f"({peak.flips:,} flips, {peak.extra_bytes / 1e6:.1f} MB beside a model of "
        f"{peak.model_bytes / 1e6:.1f} MB, {threads_text(peak.threads)})"
        for peak in peaks
    ]


def noise_line(rows: Sequence[Row]) -> str:
    noisy = sum(row.ratio.is_noisy for row in rows)
    if not noisy:
        return ""
    return (
        f"warning: the machine is noisy: in {noisy} of {len(rows)} rows (marked ~) the quartiles "
        f"of the times lie more than {NOISY:.0%} of the median apart"
    )


def document(
    rows: Sequence[Row],
    peaks: Sequence[PeakMemory],
    settings: Mapping[str, Any],
    goals: Sequence[Goal] = GOALS,
) -> dict[str, Any]:
    """All results as JSON values."""
    return {
        "settings": settings,
        "rows": [_as_dict(row) for row in rows],
        "goals": [_verdict_dict(goal, rows) for goal in goals],
        "peak_memory": [{**asdict(peak), "bytes_per_flip": peak.bytes_per_flip} for peak in peaks],
    }


def _as_dict(row: Row) -> dict[str, Any]:
    return {
        **row.labels,
        "question": row.question,
        "unit": row.unit,
        "nanoseconds": row.nanoseconds,
        "ratio": row.ratio.value,
        "quartiles": [row.ratio.low, row.ratio.high],
        "noisy": row.ratio.is_noisy,
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
        "worst": goal.worst(mine).ratio.value if mine else None,
    }


def write_plot(path: Path, rows: Sequence[Row]) -> None:
    """Draws ratios over size and over BER, with the goals as dashed lines."""
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
    """Whether the row belongs on the axis of sizes: one T per layer, float32, one thread."""
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
    _draw_lines(axes, _by_model(rows), "ber")
    for (_, ber), goal in flips.NUMPY_GOALS.items():
        axes.plot([ber / 1.6, ber * 1.6], [goal.limit] * 2, "k--", linewidth=0.8)
    axes.set_xlabel("bit error rate (probability per stored bit), 1 thread")
    axes.set_ylabel("times faster (goals dashed)")


def _draw_floor(axes: Axes, rows: Sequence[Row]) -> None:
    _draw_lines(axes, _by_model(rows), "ber")
    _draw_goal(axes, flips.FLOOR_GOAL)
    axes.set_xlabel("bit error rate (probability per stored bit), 1 thread")
    axes.set_ylabel("time over XORing a drawn list twice")


def _by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(f"{row.labels['model']}, {row.labels['against']}", []).append(row)
    return lines


def _draw_lines(axes: Axes, lines: dict[str, list[Row]], over: str) -> None:
    for index, (name, mine) in enumerate(lines.items()):
        # The quartiles of the ratios round by round need not enclose the ratio of medians.
        spread = [
            [max(0.0, row.ratio.value - row.ratio.low) for row in mine],
            [max(0.0, row.ratio.high - row.ratio.value) for row in mine],
        ]
        axes.errorbar(
            [float(row.labels[over]) for row in mine],
            [row.ratio.value for row in mine],
            yerr=spread,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
            label=name,
        )


def _draw_goal(axes: Axes, goal: Goal, label: Literal["top", "bottom"] = "bottom") -> None:
    """Draws a goal; ``label`` is the side of its text that touches the line."""
    axes.axhline(goal.limit, color="black", linestyle="--", linewidth=0.8)
    axes.annotate(
        f"goal {goal}",
        (1.0, goal.limit),
        xycoords=("axes fraction", "data"),
        ha="right",
        va=label,
        fontsize="small",
    )
