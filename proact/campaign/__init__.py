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

__all__ = ["Metric", "Result", "keep_freed_memory", "run"]

_ROOMS = {"run": "engine", "Result": "result", "Metric": "metrics", "keep_freed_memory": "memory"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"proact.campaign.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'proact.campaign' has no attribute {name!r}")
