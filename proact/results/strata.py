"""The strata of a cell: their names and weights. A cell without strata has one state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from proact.results.cells import CellState

#: The states of a cell's strata, or its one state if it has none.
Strata: TypeAlias = Sequence[CellState]


def is_stratified(states: Strata) -> bool:
    return states[0].spec.stratum is not None


def name_of(state: CellState) -> str:
    """The name of a stratum."""
    assert state.spec.stratum is not None
    return state.spec.stratum.name


def weights_of(states: Strata) -> list[float]:
    """The weights of a cell's strata; 1 for a cell without them."""
    return [state.spec.weight for state in states]


def weights_of_sampled(states: Strata, is_sampled: Sequence[bool]) -> list[float]:
    """The weights, of which those of strata without a trial yet go to the others in proportion."""
    weights = [
        weight if sampled else 0.0
        for weight, sampled in zip(weights_of(states), is_sampled, strict=True)
    ]
    scale = math.fsum(weights_of(states)) / (math.fsum(weights) or 1.0)
    return [scale * weight for weight in weights]


def rest_of(states: Strata) -> float:
    """The weight of the fault patterns without a flip, in a cell with strata."""
    return 1.0 - math.fsum(weights_of(states))
