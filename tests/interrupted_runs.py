"""Campaigns that Ctrl-C interrupts."""

from __future__ import annotations

from typing import Any

import pytest

from proact import campaign


class Interrupt:
    """A progress callback: Ctrl-C once ``after`` trials are done."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, progress: campaign.CampaignProgress) -> None:
        if progress.done >= self.after:
            raise KeyboardInterrupt


def run_and_interrupt(after: int, *arguments: Any, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        campaign.run(*arguments, progress=Interrupt(after), **options)
