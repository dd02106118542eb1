"""The rows of a result, for tests that compare results.

Not in conftest.py, which sets torch's threads: worker processes import this module.
"""

from __future__ import annotations

from proact.results import Result, Row


def rows_of(result: Result) -> dict[tuple[str, str], list[Row]]:
    """The rows of each (variant, fault), without their times."""
    return {
        cell: [row._replace(seconds=0.0) for row in result.rows(*cell)] for cell in result.states
    }
