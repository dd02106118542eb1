"""ProAct: thresholds trained one site at a time, from the last site to the first.

S. Mousavi, M. H. Ahmadilivani, J. Raik, M. Jenihhin, M. Daneshtalab, "ProAct: Progressive
Training for Hybrid Clipped Activation Function to Enhance Resilience of DNNs", arXiv 2406.06313.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proact.data import Data
from proact.nn import Site
from proact.nn.batches import Batch
from proact.nn.prefix_cache import MemoryBudget
from proact.protect.activation_profile import check_granularity
from proact.protect.checkpointing import MethodRun
from proact.protect.clips import Clips
from proact.protect.method import ClipMethod
from proact.protect.model_suffix import ModelSuffix, WholeModel
from proact.protect.objective import CLASSES, Objective, class_dimension, soft_cross_entropy
from proact.protect.options import TrainedOptions, checked_count, checked_factors, checked_positive
from proact.protect.threshold_trainer import ThresholdTrainer, wide_copy


@dataclass(frozen=True)
class ProactOptions(TrainedOptions):
    """Options of ``protect(model, "proact", ...)``, in addition to those of `TrainedOptions`.

    Attributes:
        granularity: ``"hybrid"`` (published), ``"layer"``, ``"channel"`` or ``"neuron"``.
        decays: weight decays of the threshold, per unit of learning rate. Each site tries them in
            this order and keeps the first that stays within the tolerance. If none does, the
            threshold stays where it starts: at the profile's maximum, or at ``quantile`` of it.
        learning_rate: of AdamW, as a share of the starting threshold.
        cache_bytes: memory, in bytes for each process, for the activations that lead to the current
            site, so that they are computed once. Activations that do not fit are computed in each
            step; the thresholds are the same up to rounding.
    """

    granularity: str = "hybrid"
    decays: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
    learning_rate: float = 0.01
    cache_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        super().__post_init__()
        check_granularity(self.granularity)
        checked_factors("decays", self.decays)
        checked_positive("learning_rate", self.learning_rate)
        checked_count("cache_bytes", self.cache_bytes)


def proact(
    model: nn.Module,
    data: Data,
    options: ProactOptions,
    run: MethodRun,
    objective: Objective = CLASSES,
) -> Clips:
    """The clips that ProAct chooses for ``model``, a working copy (arXiv 2406.06313)."""
    bounds = options.profiled(model, data, options.granularity, run, objective.forward)
    trainer = ThresholdTrainer(model, run.with_finished(bounds), data, options, objective)
    if not trainer.teacher.is_defined:
        run.report(
            "the outputs are no logits of classes for the targets: training uses the loss alone, "
            "without the soft targets of the unclipped model"
        )
    budget = MemoryBudget(options.cache_bytes)
    # The estimate of the time left assumes that the second decay is accepted.
    for site in run.unfinished(reversed(bounds), trainer.expected_seconds(2)):
        suffix = ModelSuffix(trainer, site, budget)
        for decay in options.decays if can_train(trainer, site, suffix, run) else ():
            kept = train_threshold(trainer, site, suffix, decay, options)
            accepted = kept >= trainer.required_accuracy
            verdict = "accepted" if accepted else "costs too much"
            run.report_candidate(site, f"decay {decay:g}", kept, verdict)
            if accepted:
                break
            trainer.set_threshold(site, bounds[site])
        run.finish(site, trainer.clip(site).threshold)
        suffix.close()
    return trainer.deployed_clips()


def can_train(trainer: ThresholdTrainer, site: Site, suffix: ModelSuffix, run: MethodRun) -> bool:
    """Whether the threshold of ``site`` influences the logits.

    Reports a threshold that does not, and a model that cannot be cut.
    """
    if not trainer.has_gradient(suffix.train, trainer.clip(site).threshold):
        run.report(
            f"{site.name}: no gradient reaches it (the logits do not depend on it, or it runs "
            "under torch.no_grad), so it is not trained"
        )
        return False
    if not suffix.is_cut and site == trainer.sites[-1]:
        run.report(f"torch.fx cannot cut the model at {site.name}: each step runs the whole model")
    return True


def train_threshold(
    trainer: ThresholdTrainer,
    site: Site,
    part: WholeModel | ModelSuffix,
    decay: float,
    options: ProactOptions,
) -> float:
    """Trains the threshold of one site and leaves it in its best state.

    AdamW works on the threshold relative to its start: activations of different layers differ by
    orders of magnitude, and one learning rate has to suit all of them.

    Returns:
        The validation accuracy of the best state, in [0, 1].
    """
    threshold = trainer.clip(site).threshold
    loss = functools.partial(distillation_loss, objective=trainer.objective)
    unit = wide_copy(threshold)
    relative = torch.ones_like(unit, requires_grad=True)
    steps = trainer.steps_per_epoch * options.epochs
    optimizer = torch.optim.AdamW([relative], lr=options.learning_rate, weight_decay=decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(options.seed)

    best, best_threshold = -1.0, threshold.detach().clone()
    for _ in range(options.epochs):
        for batch in trainer.batches(generator):
            (gradient,) = trainer.gradient(part.train, [threshold], batch, loss)
            relative.grad = gradient * unit
            optimizer.step()
            cosine.step()
            relative.data.clamp_(min=0.0)
            trainer.set_threshold(site, relative.detach() * unit)
        kept = part.accuracy()
        if kept >= best:  # of equal epochs the latest has the tightest threshold
            best, best_threshold = kept, threshold.detach().clone()
    trainer.set_threshold(site, best_threshold)
    return best


def distillation_loss(
    output: Tensor,
    targets: Batch,
    teacher: Tensor | None,
    objective: Objective = CLASSES,
) -> Tensor:
    """0.8 loss + 0.1 KD, summed over the samples (arXiv 2406.06313, section III).

    The loss is the cross-entropy of classes, or the user's. KD is the cross-entropy to the
    unclipped model's probabilities at temperature 1; it is left out where these are not defined.
    The third term, the decay of the thresholds, is AdamW's.
    """
    loss = 0.8 * objective.losses(output, targets)
    if teacher is None:
        return loss
    dimension = class_dimension(output, targets)
    assert dimension is not None
    return loss + 0.1 * soft_cross_entropy(output, targets, teacher, dimension)


METHOD = ClipMethod(proact, ProactOptions, resumes=True)
