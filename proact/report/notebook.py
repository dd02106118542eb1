"""What a notebook shows of results, sweeps and running campaigns: HTML without scripts.

Every output brings its own style, whose names all begin with ``proact-``, and needs nothing from
elsewhere. Colours are those of the notebook where it says what they are, else those of the system.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proact.campaign.cells import Cell

if TYPE_CHECKING:  # they import torch or matplotlib
    from matplotlib.figure import Figure

    from proact.campaign.progress import Standing
    from proact.campaign.sweeps import Sweep

#: Metrics that people read in percent, by their headings; others are shown as they are.
_PERCENT = {"top-1": "accuracy %", "top-5": "top-5 accuracy %", "sdc": "SDC %"}
#: A running campaign shows so many cells, those at work first.
_ROOM = 40


def result_html(cells: Sequence[Cell], confidence: float) -> str:
    """The table of the cells, and accuracy over BER where there are at least two BERs."""
    metric = cells[0].metric if cells else "top-1"
    return _rendered(
        "notebook_result.html",
        variants=[(name, list(mine)) for name, mine in groupby(cells, lambda cell: cell.variant)],
        heading=_PERCENT.get(metric, metric),
        value=_percent if metric in _PERCENT else _plain,
        confidence=confidence,
        has_untried=any(not cell.trials for cell in cells),
        figure=_figure(cells, confidence),
    )


def _figure(cells: Sequence[Cell], confidence: float) -> Markup | None:
    if len({cell.ber for cell in cells if cell.ber > 0 and cell.trials}) < 2:
        return None
    from proact.report.plots import accuracy_figure

    return inline_svg(accuracy_figure(cells, confidence))


def sweep_html(sweep: Sweep) -> str:
    """The table of the strata, those that lose most first, with a bar for each loss."""
    metric = sweep.result.metric
    rows = sorted(
        zip(sweep.strata, sweep.result.cells, strict=True), key=lambda row: -row[0].loss.estimate
    )
    return _rendered(
        "notebook_sweep.html",
        sweep=sweep,
        rows=rows,
        largest=max(stratum.loss.estimate for stratum in sweep.strata),
        heading="loss in points" if metric in _PERCENT else f"loss, {metric}",
        value=_points if metric in _PERCENT else _plain,
        has_untried=any(not cell.trials for cell in sweep.result.cells),
    )


def progress_html(standing: Standing, state: str, sentence: str) -> str:
    """How far a campaign is; ``state`` is ``"running"``, ``"finished"`` or ``"stopped"``."""
    lines = standing.at_work_first(_ROOM)
    return _rendered(
        "notebook_progress.html",
        standing=standing,
        lines=lines,
        hidden=len(standing.lines) - len(lines),
        state=state,
        sentence=sentence,
    )


def inline_svg(figure: Figure) -> Markup:
    """A figure as an SVG element in the page's colours, for a page with the style of this room.

    Its text is text, and the same figure gives the same element.
    """
    import matplotlib

    written = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "proact", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata=no_metadata)
    svg = written.getvalue()
    # What stands before the element belongs to files; its style would hold for the whole page.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    return Markup(re.sub(r"<[^>]+>", _with_colours_of_page, svg))


def _with_colours_of_page(tag: re.Match[str]) -> str:
    """Black and white of a tag are the page's. Black fills are not written: the style sets them."""
    return (
        tag[0].replace(": #000000", ": currentColor").replace(": #ffffff", ": var(--proact-paper)")
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _rendered(template: str, **values: object) -> str:
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("proact.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
