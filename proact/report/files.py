"""The names of the files that a report always writes; nothing heavy is imported."""

from __future__ import annotations

PAGE = "report.html"
FIGURES = ("accuracy.png", "accuracy.svg")
