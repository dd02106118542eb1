"""FitAct: a threshold for every neuron, all trained at once.

B. Ghavami, M. Sadati, Z. Fang, L. Shannon, "FitAct: Error Resilient Deep Neural Networks via
Fine-Grained Post-Trainable Activation Functions", arXiv 2112.13544.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.data import Data
from proact.protect.checkpointing import Session
from proact.protect.clips import Clips
from proact.protect.options import TrainedOptions, checked_factors, checked_positive
from proact.protect.profile import check_granularity
from proact.protect.threshold_trainer import Student, Whole, wide_copy


@dataclass(frozen=True)
class FitactOptions(TrainedOptions):
    """Options of ``protect(model, "fitact", ...)``, beside those of `TrainedOptions`.

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


def fitact(model: nn.Module, data: Data, options: FitactOptions, session: Session) -> Clips:
    bounds = options.profiled(model, data, options.granularity)
    student = Student(model, bounds, data, options)
    network = Whole(student)
    thresholds = [student.clip(site).threshold for site in student.sites]
    # What does not decide the logits would only be shrunk by the penalty.
    thresholds = [t for t in thresholds if student.decides(network.train, t)]
    count = sum(threshold.numel() for threshold in thresholds)
    masters = [wide_copy(threshold) for threshold in thresholds]
    optimizer = torch.optim.Adam(masters, lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)

    for epoch in range(1, options.epochs + 1):
        before = [threshold.detach().clone() for threshold in thresholds]
        for batch in student.batches(generator):
            gradients = student.gradient(network.train, thresholds, batch, cross_entropy)
            for master, gradient in zip(masters, gradients, strict=True):
                # Of lambda times the mean of T^2 over all thresholds (arXiv 2112.13544).
                master.grad = gradient.to(master.dtype) + 2 * options.penalty / count * master
            optimizer.step()
            for threshold, master in zip(thresholds, masters, strict=True):
                threshold.data.copy_(master.clamp_(min=0.0))
        kept = network.accuracy()
        is_good = kept >= student.least
        session.tell(
            f"epoch {epoch} of {options.epochs} keeps {kept:.4f} of validation, "
            f"{'accepted' if is_good else 'costs too much: the epoch before is kept'}"
        )
        if not is_good:
            for threshold, value in zip(thresholds, before, strict=True):
                threshold.data.copy_(value)
            break
    return student.deployed()


def cross_entropy(output: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, reduction="sum")
