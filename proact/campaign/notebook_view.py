"""A running campaign in a notebook: one output that is rewritten, and stays when it ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from proact.campaign.progress import Standing


def is_in_notebook() -> bool:
    """Whether this is a kernel of IPython. Whoever has not imported IPython is in none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookView:
    """A `proact.campaign.progress.View`.

    Args:
        store: where the rows are kept; None: in memory.
    """

    def __init__(self, store: Path | None) -> None:
        self._store = store
        self._handle: Any = None

    def begin(self, standing: Standing) -> None:
        self.show(standing)

    def show(self, standing: Standing) -> None:
        if not standing.in_all:  # nobody has asked yet how many trials are needed
            self._put(standing, "running", "Starting.")
            return
        done = f"{standing.done:,} of {standing.in_all:,} trials"
        self._put(standing, "running", f"Running: {done}, {standing.told_left}.")

    def end(self, standing: Standing, error: BaseException | None) -> None:
        if error is None:
            failed = f"; {standing.failed:,} could not be run" if standing.failed else ""
            self._put(standing, "finished", f"Finished: {standing.done:,} trials{failed}.")
            return
        is_interrupt = isinstance(error, KeyboardInterrupt)
        what = "Interrupted" if is_interrupt else f"Stopped by {type(error).__name__}"
        self._put(standing, "stopped", f"{what}: {self._how_to_go_on(standing)}")

    def _how_to_go_on(self, standing: Standing) -> str:
        if self._store is None:
            return "the rows were in memory and are gone; store=... would have kept them."
        return (
            f"{standing.stored:,} trials are kept in {self._store}; run the same again to go on "
            "from there."
        )

    def _put(self, standing: Standing, state: str, sentence: str) -> None:
        # There is a kernel, so there is IPython.
        from IPython.display import display

        from proact.report.notebook import progress_html

        # What cannot show HTML shows the sentence.
        shown = {"text/html": progress_html(standing, state, sentence), "text/plain": sentence}
        if self._handle is None:
            self._handle = display(  # type: ignore[no-untyped-call]
                shown, raw=True, display_id=True
            )
        else:
            self._handle.update(shown, raw=True)
