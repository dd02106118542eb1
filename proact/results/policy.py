"""The part of the execution of trials that determines the last digits of their outputs."""

from __future__ import annotations

from dataclasses import dataclass

from proact.results.stored_json import stored


@stored
@dataclass(frozen=True)
class Policy:
    """The execution policy of a campaign. It is part of the task's identity.

    Attributes:
        images: number of images per trial, drawn for each; None takes all.
        batch: number of images in one forward pass.
        channels_last: the memory order in which four-dimensional inputs are given.
    """

    images: int | None
    batch: int
    channels_last: bool
