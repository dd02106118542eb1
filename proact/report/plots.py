"""Plots of cells. matplotlib: it writes PNG, SVG and PDF without a browser."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from proact.campaign.cells import Cell

# M. Okabe and K. Ito's palette, which colour-blind readers can tell apart; markers differ as well.
_COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = "osD^vPX"
_LINES = ("-", "--", ":")


class ShownFigure(Figure):
    """A figure that notebooks show without pyplot and its magic."""

    def _repr_png_(self) -> tuple[bytes, dict[str, float]]:
        """Twice as fine as it is wide and high on the page, in CSS pixels of 1/96 inch."""
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=192)
        width, height = 96 * self.get_size_inches()
        return written.getvalue(), {"width": width, "height": height}


def accuracy_figure(cells: Sequence[Cell], confidence: float) -> Figure:
    """Accuracy over BER, one line a variant, the interval as a band.

    Cells with a BER of 0 have no place on the logarithmic axis and are left out.
    """
    figure = ShownFigure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (variant, mine) in enumerate(groupby(cells, key=lambda cell: cell.variant)):
        shown = sorted((cell for cell in mine if cell.ber > 0), key=lambda cell: cell.ber)
        rates = [cell.ber for cell in shown]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(
            rates,
            [100 * cell.accuracy.estimate for cell in shown],
            color=colour,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
            linestyle=_LINES[index // len(_COLOURS) % len(_LINES)],
            label=variant,
        )
        axes.fill_between(
            rates,
            [100 * cell.accuracy.low for cell in shown],
            [100 * cell.accuracy.high for cell in shown],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    axes.set_xlabel("bit error rate (probability per stored bit)")
    axes.set_ylabel(f"top-1 accuracy (%), {100 * confidence:g} % interval")
    axes.grid(alpha=0.3)
    if len(axes.lines) > len(_COLOURS):
        # More than the axes have room for.
        figure.set_size_inches(9.5, 5.0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    else:
        axes.legend()
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; the ending of ``path`` decides the format."""
    # No date and no random ids: the same result gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "proact"}):
        figure.savefig(path, dpi=150, metadata=metadata)
