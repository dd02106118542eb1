"""Monte-Carlo campaigns: variants x faults x trials, stored as they finish.

`statistics`, `store` and `cells` need neither torch nor matplotlib, hence the late imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proact.campaign.engine import run
    from proact.campaign.memory import keep_freed_memory
    from proact.campaign.metrics import Metric
    from proact.campaign.result import Result
    from proact.campaign.sweeps import Sweep, per_bit, per_layer

__all__ = ["Metric", "Result", "Sweep", "keep_freed_memory", "per_bit", "per_layer", "run"]

_ROOMS = {
    "Metric": "metrics",
    "Result": "result",
    "Sweep": "sweeps",
    "keep_freed_memory": "memory",
    "per_bit": "sweeps",
    "per_layer": "sweeps",
    "run": "engine",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"proact.campaign.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'proact.campaign' has no attribute {name!r}")
