"""Ranger: thresholds at the bounds of the profile.

Z. Chen, G. Li, K. Pattabiraman, "A Low-cost Fault Corrector for Deep Neural Networks through Range
Restriction", arXiv 2003.13874.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from proact.data import Data
from proact.protect.activation_profile import check_granularity
from proact.protect.checkpointing import MethodRun
from proact.protect.clips import Clips, clips_at
from proact.protect.method import ClipMethod
from proact.protect.objective import CLASSES, Objective
from proact.protect.options import ClipOptions, check_deployed_mode


@dataclass(frozen=True)
class RangerOptions(ClipOptions):
    """Options of ``protect(model, "ranger", ...)``, in addition to those of `ClipOptions`.

    Attributes:
        granularity: ``"layer"`` (published), ``"channel"``, ``"neuron"`` or ``"hybrid"``.
        mode: ``"saturate"`` (published: a value above the bound becomes the bound) or ``"zero"``.
    """

    granularity: str = "layer"
    mode: str = "saturate"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_granularity(self.granularity)
        check_deployed_mode(self.mode)


def ranger(
    model: nn.Module,
    data: Data,
    options: RangerOptions,
    run: MethodRun,
    objective: Objective = CLASSES,
) -> Clips:
    """The clips that Ranger chooses for ``model`` (arXiv 2003.13874); it needs no targets."""
    thresholds = options.profiled(model, data, options.granularity, run, objective.forward)
    run.report(f"{len(thresholds)} sites profiled")
    return clips_at(thresholds, options.mode)


METHOD = ClipMethod(ranger, RangerOptions, judges=False)
