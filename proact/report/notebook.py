"""What a notebook shows of results, sweeps and running campaigns: HTML without scripts.

Every output brings its own style, whose names all begin with ``proact-``, and needs nothing from
elsewhere. Colours are those of the notebook where it says what they are, else those of the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

from proact.report.html import inline_svg, rendered
from proact.report.units import Scale
from proact.results.cells import Cell

if TYPE_CHECKING:  # they import torch
    from proact.campaign.progress import Standing
    from proact.campaign.sweeps import Sweep

#: A running campaign shows so many cells, those at work first.
_ROOM = 40


def result_html(cells: Sequence[Cell], confidence: float, scale: Scale) -> str:
    """The table of the cells, and accuracy over BER where there are at least two BERs."""
    return rendered(
        "notebook_result.html",
        variants=[(name, list(mine)) for name, mine in groupby(cells, lambda cell: cell.variant)],
        scale=scale,
        confidence=confidence,
        has_untried=any(not cell.trials for cell in cells),
        figure=_figure(cells, confidence, scale),
    )


def _figure(cells: Sequence[Cell], confidence: float, scale: Scale) -> Markup | None:
    if len({cell.ber for cell in cells if cell.ber > 0 and not cell.is_missing}) < 2:
        return None
    from proact.report.plots import accuracy_figure

    return inline_svg(accuracy_figure(cells, confidence, scale))


def sweep_html(sweep: Sweep) -> str:
    """The table of the strata, those that lose most first, with a bar for each loss."""
    rows = sorted(
        zip(sweep.strata, sweep.result.cells, strict=True), key=lambda row: -row[0].loss.estimate
    )
    return rendered(
        "notebook_sweep.html",
        sweep=sweep,
        rows=rows,
        largest=max(stratum.loss.estimate for stratum in sweep.strata),
        scale=sweep.result.scale,
        has_untried=any(not cell.trials for cell in sweep.result.cells),
    )


def progress_html(standing: Standing, state: str, sentence: str) -> str:
    """How far a campaign is; ``state`` is ``"running"``, ``"finished"`` or ``"stopped"``."""
    lines = standing.at_work_first(_ROOM)
    return rendered(
        "notebook_progress.html",
        standing=standing,
        lines=lines,
        hidden=len(standing.lines) - len(lines),
        state=state,
        sentence=sentence,
    )
