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
    from proact.results.failure_rate import (
        BUDGETS,
        FailureRate,
        MemoryConditions,
        bit_error_rate,
        hours_until,
    )
    from proact.results.policy import Policy
    from proact.results.result import Result, read
    from proact.results.statistics import Interval
    from proact.results.store import Row
    from proact.results.stratum import Stratum
    from proact.results.worst_case import WorstCase

__all__ = [
    "BUDGETS",
    "CellDetails",
    "CellResult",
    "CellSpec",
    "CellState",
    "CellStratum",
    "FailureRate",
    "Interval",
    "MemoryConditions",
    "Policy",
    "Result",
    "Row",
    "Stratum",
    "StratumResult",
    "WorstCase",
    "bit_error_rate",
    "hours_until",
    "read",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BUDGETS": "failure_rate",
        "CellDetails": "cells",
        "CellResult": "cells",
        "CellSpec": "cells",
        "CellState": "cells",
        "CellStratum": "cells",
        "FailureRate": "failure_rate",
        "Interval": "statistics",
        "MemoryConditions": "failure_rate",
        "Policy": "policy",
        "Result": "result",
        "Row": "store",
        "Stratum": "stratum",
        "StratumResult": "cells",
        "WorstCase": "worst_case",
        "bit_error_rate": "failure_rate",
        "hours_until": "failure_rate",
        "read": "result",
    },
)
