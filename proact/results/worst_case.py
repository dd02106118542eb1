"""What is left of a variant after the flips that a search found to hurt it most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WorstCase:
    """The result of a search for harmful flips in one variant (`proact.campaign.worst_case`).

    Attributes:
        searched: the number of flips that were searched for.
        random: the fault of as many random flips in the same bits, which the campaign has too.
        values: by the number of flips after each step of the search, the metric on all images, in
            its unit; empty if no flip that the search tried hurt.
        fault: the flips of the last step, as `proact.faults.fault_from_dict` reads them.
    """

    searched: int
    random: str
    values: Mapping[int, float]
    fault: Mapping[str, Any]


def worst_cases_in(notes: Mapping[str, Any]) -> dict[str, WorstCase]:
    """The worst cases in the notes of a run, by variant; `proact.campaign.run` puts them there."""
    return {
        variant: WorstCase(
            found["searched"], found["random"], dict(found["values"]), found["fault"]
        )
        for variant, found in notes.get("worst_cases", {}).items()
    }
