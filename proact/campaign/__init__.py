"""Monte-Carlo campaigns: variants x faults x trials, stored as they finish.

`statistics`, `store`, `cells` and `stored_run` need neither torch nor matplotlib, hence the late
imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proact.campaign.engine import run
    from proact.campaign.memory import keep_freed_memory
    from proact.campaign.metrics import Metric
    from proact.campaign.result import Result
    from proact.campaign.stored_run import StoredRun, stored_runs
    from proact.campaign.sweeps import Sweep, per_bit, per_layer

__all__ = [
    "Metric",
    "Result",
    "StoredRun",
    "Sweep",
    "keep_freed_memory",
    "per_bit",
    "per_layer",
    "run",
    "stored_runs",
]

_ROOMS = {
    "Metric": "metrics",
    "Result": "result",
    "StoredRun": "stored_run",
    "Sweep": "sweeps",
    "keep_freed_memory": "memory",
    "per_bit": "sweeps",
    "per_layer": "sweeps",
    "run": "engine",
    "stored_runs": "stored_run",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"proact.campaign.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'proact.campaign' has no attribute {name!r}")
