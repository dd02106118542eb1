"""FitAct: a threshold for every neuron, all trained at once.

B. Ghavami, M. Sadati, Z. Fang, L. Shannon, "FitAct: Error Resilient Deep Neural Networks via
Fine-Grained Post-Trainable Activation Functions", arXiv 2112.13544.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from proact.data import Data
from proact.protect.activation_profile import check_granularity
from proact.protect.checkpointing import MethodRun
from proact.protect.clips import Clips
from proact.protect.method import ClipMethod
from proact.protect.model_suffix import WholeModel
from proact.protect.objective import CLASSES, Objective
from proact.protect.options import TrainedOptions, checked_factors, checked_positive
from proact.protect.threshold_trainer import ThresholdTrainer, wide_copy


@dataclass(frozen=True)
class FitactOptions(TrainedOptions):
    """Options of ``protect(model, "fitact", ...)``, in addition to those of `TrainedOptions`.

    Attributes:
        granularity: ``"neuron"`` (published), ``"layer"``, ``"channel"`` or ``"hybrid"``.
        penalty: the weight lambda of the mean squared threshold in the loss.
        learning_rate: of Adam, per step, in units of activation.
    """

    granularity: str = "neuron"
    penalty: float = 1.0
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_granularity(self.granularity)
        checked_factors("penalty", (self.penalty,))
        checked_positive("learning_rate", self.learning_rate)


def fitact(
    model: nn.Module,
    data: Data,
    options: FitactOptions,
    run: MethodRun,
    objective: Objective = CLASSES,
) -> Clips:
    """The clips that FitAct chooses for ``model``, a working copy (arXiv 2112.13544)."""
    bounds = options.profiled(model, data, options.granularity, run, objective.forward)
    trainer = ThresholdTrainer(model, bounds, data, options, objective)
    whole = WholeModel(trainer)
    thresholds = [trainer.clip(site).threshold for site in trainer.sites]
    # The penalty alone would shrink a threshold that the logits do not depend on.
    thresholds = [t for t in thresholds if trainer.has_gradient(whole.train, t)]
    count = sum(threshold.numel() for threshold in thresholds)
    masters = [wide_copy(threshold) for threshold in thresholds]
    optimizer = torch.optim.Adam(masters, lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)

    for epoch in range(1, options.epochs + 1) if trainer.tolerance.can_accept else ():
        before = [threshold.detach().clone() for threshold in thresholds]
        for batch in trainer.batches(generator):
            gradients = trainer.gradient(whole.train, thresholds, batch, trainer.loss)
            for master, gradient in zip(masters, gradients, strict=True):
                # The penalty is lambda times the mean of T^2 over all thresholds.
                master.grad = gradient.to(master.dtype) + 2 * options.penalty / count * master
            optimizer.step()
            for threshold, master in zip(thresholds, masters, strict=True):
                threshold.data.copy_(master.clamp_(min=0.0))
        verdict = whole.judge()
        said = "accepted" if verdict.accepted else "loses too much: the epoch before it is kept"
        run.report(
            f"epoch {epoch} of {options.epochs}: {verdict.kept:.4f} on validation samples, {said}"
        )
        if not verdict.accepted:
            for threshold, value in zip(thresholds, before, strict=True):
                threshold.data.copy_(value)
            break
    return trainer.deployed_clips()


METHOD = ClipMethod(fitact, FitactOptions)
