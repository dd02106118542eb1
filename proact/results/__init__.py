"""The results of campaigns: the store, cells, statistics and result objects.

This package imports neither torch nor matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proact.lazy_imports import lazy_names

if TYPE_CHECKING:
    from proact.results.cells import (
        CellDetails,
        CellResult,
        CellSpec,
        CellState,
        CellStratum,
        StratumResult,
    )
    from proact.results.policy import Policy
    from proact.results.result import Result, read
    from proact.results.statistics import Interval
    from proact.results.store import Row
    from proact.results.stratum import Stratum

__all__ = [
    "CellDetails",
    "CellResult",
    "CellSpec",
    "CellState",
    "CellStratum",
    "Interval",
    "Policy",
    "Result",
    "Row",
    "Stratum",
    "StratumResult",
    "read",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CellDetails": "cells",
        "CellResult": "cells",
        "CellSpec": "cells",
        "CellState": "cells",
        "CellStratum": "cells",
        "Interval": "statistics",
        "Policy": "policy",
        "Result": "result",
        "Row": "store",
        "Stratum": "stratum",
        "StratumResult": "cells",
        "read": "result",
    },
)
