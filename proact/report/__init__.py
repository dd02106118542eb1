"""Tables, plots and pages of campaigns, read from stored rows: no network, no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proact.report.writer import NoTrialsError, write_report

__all__ = ["NoTrialsError", "write_report"]


def __getattr__(name: str) -> Any:
    # Tables are made without waiting for matplotlib.
    if name in __all__:
        return getattr(importlib.import_module("proact.report.writer"), name)
    raise AttributeError(f"module 'proact.report' has no attribute {name!r}")
