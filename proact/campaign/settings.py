"""What a caller asks for, on its way to a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from proact.campaign.identity import Policy
from proact.campaign.metrics import Metric
from proact.encodings import Encoding
from proact.results.run_log import Kind


@dataclass(frozen=True)
class Settings:
    """What `proact.campaign.run` and the sweeps share; see there."""

    encoding: str | Encoding = "float32"
    metric: str | Metric = "top-1"
    images_per_trial: int | Literal["auto", "all"] | None = "auto"
    confidence: float = 0.95
    margin_of_pilot: float = 0.01
    seed: int = 0
    shortcuts: bool = True
    retry_failed: bool = False
    policy: Policy | None = None


@dataclass(frozen=True)
class Order:
    """What a run is to end with.

    Attributes:
        margin: half the width of an interval; None where the number of trials is given.
        trials: of a cell (a sweep: of all); with a margin, the most.
        name, notes: see `proact.campaign.run`.
        kind: what the cells are to each other.
        fault: of a sweep, what happens in each part.
        parts: of a sweep, what each fault hits.
        fields: of a sweep over bits, the field of the encoding that each is in.
    """

    margin: float | None
    trials: int | None
    name: str | None = None
    kind: Kind = "campaign"
    fault: str | None = None
    parts: tuple[str, ...] = ()
    fields: tuple[str | None, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
