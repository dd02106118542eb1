"""The part of the execution of trials that determines the last digits of their outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from proact.results.stored_json import stored


@stored
@dataclass(frozen=True)
class Policy:
    """The execution policy of a campaign. It is part of the task's identity.

    Attributes:
        images: number of images per trial, drawn for each; None takes all.
        batch: number of images in one forward pass.
        channels_last: the memory order in which four-dimensional inputs are given.
        trials_at_once: number of fault patterns in one forward pass, at least 1; models that cannot
            run several at once run them one by one.
    """

    images: int | None
    batch: int
    channels_last: bool
    trials_at_once: int = 1

    def to_facts(self) -> dict[str, Any]:
        """Return the policy as part of a task's facts.

        One trial at a time is left out, so that stores from before `trials_at_once` go on.
        """
        facts = asdict(self)
        if self.trials_at_once == 1:
            del facts["trials_at_once"]
        return facts
