"""Tables, figures and pages of campaigns, made from results alone: no model, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.report.writer import NoTrialsError, write_report

__all__ = ["NoTrialsError", "write_report"]

__getattr__ = lazy_names(__name__, {"NoTrialsError": "writer", "write_report": "writer"})
