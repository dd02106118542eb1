"""The names of the methods of protection; nothing heavy is imported, so that help pages can list
them."""

from __future__ import annotations

#: `proact.protect.methods` says what each does.
METHODS = (
    "ranger",
    "ft-clipact",
    "fitact",
    "proact",
    "resilience-aware-proact",
    "weight-range",
)
