"""How every figure looks: colours that colour-blind readers can tell apart, and shapes besides.

matplotlib draws them, not plotly: one drawing serves PNG, SVG and PDF, it needs neither a browser
nor a megabyte of scripts in each page, and what it draws can be printed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: M. Okabe and K. Ito, "Color universal design" (2008); yellow is left out: too pale on white.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = "osD^vPX"
_LINES: Sequence[str | tuple[int, tuple[int, ...]]] = ("-", "--", ":")

BER_LABEL = "bit error rate (probability per stored bit)"


@dataclass(frozen=True)
class Look:
    """Of one variant, the same in every figure of a page."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


def looks(variants: Sequence[str]) -> Mapping[str, Look]:
    """A look for each variant, in their order; different ones for up to 21."""
    return {
        variant: Look(
            COLOURS[index % len(COLOURS)],
            _MARKERS[index % len(_MARKERS)],
            _LINES[index // len(COLOURS) % len(_LINES)],
        )
        for index, variant in enumerate(variants)
    }


class ShownFigure(Figure):
    """A figure that notebooks show without pyplot and its magic."""

    def _repr_png_(self) -> tuple[bytes, dict[str, float]]:
        """Twice as fine as it is wide and high on the page, in CSS pixels of 1/96 inch."""
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=192)
        width, height = 96 * self.get_size_inches()
        return written.getvalue(), {"width": width, "height": height}


def as_text(name: str) -> str:
    """A name as matplotlib shows it letter by letter: ``$`` sets no mathematics, and ``_`` at the
    start does not hide it from legends."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with its axes."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """Names what is drawn: above the axes, or beside them where there is much."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > len(COLOURS):
        figure.set_size_inches(figure.get_figwidth() + 2.5, figure.get_figheight() + 0.5)
        axes.legend(
            handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small",
            frameon=False,
        )  # fmt: skip
        return
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, frameon=False
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; the ending of ``path`` decides the format."""
    # No date and no random ids: the same result gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "proact"}):
        figure.savefig(path, dpi=150, metadata=metadata)
