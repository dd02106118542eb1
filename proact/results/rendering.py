"""The interface to the renderer of results.

Results hold data and do not depend on tables and figures. `proact` installs `proact.report` as the
renderer; `Result.table` and its like pass themselves to it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table


class Renderer(Protocol):
    """The functions of a renderer; see `proact.report.render`."""

    def result_frame(self, result: Any, with_details: bool) -> pd.DataFrame: ...
    def result_table(self, result: Any) -> Table: ...
    def result_figure(self, result: Any) -> Figure: ...
    def result_html(self, result: Any) -> str: ...
    def save_figure(self, figure: Figure, path: Path) -> None: ...
    def write_report(self, store: Any, folder: Path, **options: Any) -> dict[str, Path]: ...
    def plan_table(self, plan: Any) -> Table: ...
    def plan_frame(self, plan: Any) -> pd.DataFrame: ...
    def progress_bars(self, always: bool) -> Callable[[Any], object] | None: ...


_loaders: list[Callable[[], Renderer]] = []


def install_renderer(load: Callable[[], Renderer]) -> None:
    """Sets the renderer; ``load`` is called when a result is shown for the first time."""
    _loaders[:] = [load]


def renderer() -> Renderer:
    """The installed renderer."""
    if not _loaders:
        raise RuntimeError("no renderer is installed: import proact first")
    return _loaders[0]()
