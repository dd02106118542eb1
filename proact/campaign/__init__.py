"""Monte-Carlo campaigns: variants x faults x trials, stored as they finish.

`statistics`, `store`, `cells` and `stored_run` need neither torch nor matplotlib, hence the late
imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proact.campaign.engine import run
    from proact.campaign.malloc_tuning import keep_freed_memory
    from proact.campaign.metrics import Metric
    from proact.campaign.sweeps import Sweep, per_bit, per_layer
    from proact.results.result import Result
    from proact.results.stored_run import StoredRun, stored_runs

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

_MODULES = {
    "Metric": "proact.campaign.metrics",
    "Result": "proact.results.result",
    "StoredRun": "proact.results.stored_run",
    "Sweep": "proact.campaign.sweeps",
    "keep_freed_memory": "proact.campaign.malloc_tuning",
    "per_bit": "proact.campaign.sweeps",
    "per_layer": "proact.campaign.sweeps",
    "run": "proact.campaign.engine",
    "stored_runs": "proact.results.stored_run",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'proact.campaign' has no attribute {name!r}")
