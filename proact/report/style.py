"""How every figure looks: colours that colour-blind readers can tell apart, and shapes besides.

matplotlib draws them, not plotly: one figure serves PNG, SVG and PDF, it needs neither a browser
nor a megabyte of scripts in each page, and what it draws can be printed.
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

#: After M. Okabe and K. Ito, "Color universal design" (2008), without yellow; darkened until lines
#: have a contrast of 3 to white (WCAG 2.2, 1.4.11).
COLOURS = ("#000000", "#CF8300", "#0072B2", "#00936B", "#C04A00", "#CC79A7", "#3A9BDC")
_MARKERS = "osD^vPX"
_LINES: Sequence[str | tuple[int, tuple[int, ...]]] = ("-", "--", ":")

#: Of a name in a figure; tables have it whole.
MOST_LETTERS = 48
#: What a letter of a figure's text takes on average.
LETTER_INCHES = 0.085
#: What stands before a name in a legend, and how many lines of names stand above a figure.
_HANDLE_INCHES = 0.85
_MOST_ROWS = 3

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
        with unknown_signs():
            self.savefig(written, format="png", dpi=192)
        width, height = 96 * self.get_size_inches()
        return written.getvalue(), {"width": width, "height": height}


def as_text(name: str, most: int = MOST_LETTERS) -> str:
    """A name as matplotlib shows it letter by letter: ``$`` sets no mathematics, and ``_`` at the
    start does not hide it from legends. Of a name of more than ``most`` letters, what is in the
    middle is left out: the figure would have no room for itself."""
    if len(name) > most:
        kept = most - 1
        name = f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def widest(names: Iterable[str]) -> float:
    """How many inches the longest of some names takes as a figure shows it, roughly."""
    return LETTER_INCHES * max((min(len(name), MOST_LETTERS) for name in names), default=0)


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
    """Names what is drawn: above the axes, or beside them where there is much. The figure grows by
    what that takes."""
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


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; the ending of ``path`` decides the format."""
    # No date and no random ids: the same result gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "proact"}), unknown_signs():
        figure.savefig(path, dpi=150, metadata=metadata)


@contextmanager
def unknown_signs() -> Iterator[None]:
    """Inside, names may hold signs that matplotlib's font lacks: files show a box for each, pages
    the sign in a font of the reader's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield
