"""The style of figures: colours that colour-blind readers can distinguish, with marker shapes.

Figures are made with matplotlib and not with plotly: one figure gives PNG, SVG and PDF, needs no
browser and no megabyte of scripts in each page, and can be printed.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from proact.text import label

#: After M. Okabe and K. Ito, "Color universal design" (2008), without yellow; darkened until lines
#: have a contrast of 3 to white (WCAG 2.2, 1.4.11).
COLOURS = ("#000000", "#CF8300", "#0072B2", "#00936B", "#C04A00", "#CC79A7", "#3A9BDC")
_MARKERS = "osD^vPX"
_LINES: Sequence[str | tuple[int, tuple[int, ...]]] = ("-", "--", ":")

#: The most letters of a name in a figure; tables have longer ones.
MOST_LETTERS = 48
#: The average width of a letter in a figure.
LETTER_INCHES = 0.085
#: The width of a legend's handle, and the most rows of a legend above a figure.
_HANDLE_INCHES = 0.85
_MOST_ROWS = 3


@dataclass(frozen=True)
class Look:
    """The look of one variant, the same in every figure of a page."""

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
        """The image at twice the resolution of CSS pixels (1/96 inch), and its size in these."""
        written = io.BytesIO()
        with unknown_signs():
            self.savefig(written, format="png", dpi=192)
        width, height = 96 * self.get_size_inches()
        return written.getvalue(), {"width": width, "height": height}


def as_text(name: str, most: int = MOST_LETTERS) -> str:
    """The label of a name for matplotlib: ``$`` starts no mathematics, and ``_`` at the start does
    not hide it from legends."""
    shown = label(name, most).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def widest(names: Iterable[str]) -> float:
    """The approximate width in inches of the longest name in a figure."""
    return LETTER_INCHES * max((len(label(name, MOST_LETTERS)) for name in names), default=0)


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this width and height, in inches, with its axes."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """Adds a legend above the axes, or beside them where it is long. The figure grows by
    its size."""
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    column = widest(labels) + _HANDLE_INCHES
    columns = min(max(int((width - 1.0) / column), 1), 4)
    rows = math.ceil(len(labels) / columns)
    if len(labels) > len(COLOURS) or rows > _MOST_ROWS:
        figure.set_size_inches(width + column, max(height, 0.2 * len(labels)) + 0.5)
        axes.legend(
            handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small",
            frameon=False,
        )  # fmt: skip
        return
    figure.set_size_inches(width, height + 0.23 * max(rows - 1, 0))
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, frameon=False
    )


def fix_layout(figure: Figure) -> None:
    """Arranges a figure for the last time: saving it in several formats does not arrange it again,
    which takes as long as drawing it."""
    with unknown_signs():
        figure.draw_without_rendering()
    figure.set_layout_engine(None)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; the ending of ``path`` decides the format."""
    _save(figure, path, path.suffix)


def figure_bytes(figure: Figure, ending: str) -> bytes:
    """The content of a figure's file with an ending, such as ".svg"."""
    content = io.BytesIO()
    _save(figure, content, ending)
    return content.getvalue()


def _save(figure: Figure, file: Path | io.BytesIO, ending: str) -> None:
    # No date and no random ids: the same result gives the same file.
    metadata = {"Date": None} if ending == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "proact"}), unknown_signs():
        figure.savefig(file, format=ending[1:] or None, dpi=150, metadata=metadata)


@contextmanager
def unknown_signs() -> Iterator[None]:
    """Silences the warning of matplotlib that its font lacks a sign. Files show a box for the sign;
    pages show it in a font of the reader's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield
