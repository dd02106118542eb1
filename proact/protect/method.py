"""What a protection method consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from proact.protect.clips import Clips
from proact.protect.options import ClipOptions


@dataclass(frozen=True)
class ClipMethod:
    """A method that clips activations.

    Attributes:
        run: chooses the clips, from (working copy of the model, data, options, run, objective).
        options: the type of its options.
        resumes: whether an interrupted run can be resumed.
        judges: whether it judges outputs, and needs targets for that.
    """

    run: Callable[..., Clips]
    options: type[ClipOptions]
    resumes: bool = False
    judges: bool = True


@dataclass(frozen=True)
class GuardMethod:
    """A method that guards stored values.

    Attributes:
        run: adds the guard to a copy of the model, from (copy, options, progress function).
        options: the type of its options.
    """

    run: Callable[..., nn.Module]
    options: type[Any]
