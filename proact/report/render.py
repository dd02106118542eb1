"""Shows results: the renderer that `proact.results.rendering` calls.

The functions take a `proact.results.Result`, of a campaign or of a sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proact.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

    from proact.protect import Plan


def result_frame(result: Result, with_details: bool) -> pd.DataFrame:
    """See `Result.to_pandas`."""
    from proact.report.tables import cells_frame, strata_frame

    return cells_frame(result, with_details) if _is_campaign(result) else strata_frame(result)


def result_table(result: Result) -> Table:
    """See `Result.table`."""
    from proact.report.tables import cells_table, strata_table

    return cells_table(result) if _is_campaign(result) else strata_table(result)


def result_figure(result: Result) -> Figure:
    """See `Result.plot`."""
    from proact.report import plots

    return plots.result_figure(result)


def result_html(result: Result) -> str:
    """What a notebook shows of a result."""
    from proact.report.notebook import campaign_html, sweep_html

    return campaign_html(result) if _is_campaign(result) else sweep_html(result)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; the ending of ``path`` decides the format."""
    from proact.report import style

    style.save_figure(figure, path)


def write_report(store: Any, folder: Path, **options: Any) -> dict[str, Path]:
    """See `Result.report`; the options are those of `proact.report.writer.write_report`."""
    from proact.report import writer

    return writer.write_report(store, folder, **options)


def plan_table(plan: Plan) -> Table:
    """See `proact.protect.Plan.table`."""
    from proact.report import plan_tables

    return plan_tables.plan_table(plan)


def plan_frame(plan: Plan) -> pd.DataFrame:
    """See `proact.protect.Plan.to_pandas`."""
    from proact.report import plan_tables

    return plan_tables.plan_frame(plan)


def progress_bars(always: bool) -> Callable[[Any], object] | None:
    """See `proact.campaign.RunOptions.progress`."""
    from proact.report.progress import campaign_bars

    return campaign_bars(always)


def _is_campaign(result: Result) -> bool:
    return result.spec.kind == "campaign"
