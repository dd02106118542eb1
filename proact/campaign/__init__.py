"""Monte-Carlo campaigns: variants x faults x trials, stored as they finish.

`statistics`, `store` and `cells` need neither torch nor matplotlib, hence the late imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proact.campaign.engine import run
    from proact.campaign.result import Result

__all__ = ["Result", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from proact.campaign.engine import run

        return run
    if name == "Result":
        from proact.campaign.result import Result

        return Result
    raise AttributeError(f"module 'proact.campaign' has no attribute {name!r}")
