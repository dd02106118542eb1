"""ProAct: thresholds trained one site at a time, from the last site to the first.

S. Mousavi, M. H. Ahmadilivani, J. Raik, M. Jenihhin, M. Daneshtalab, "ProAct: Progressive
Training for Hybrid Clipped Activation Function to Enhance Resilience of DNNs", arXiv 2406.06313.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from proact.data import Data
from proact.models.evaluation import examples
from proact.nn import Site
from proact.nn.batches import Batch
from proact.nn.memory_order import prefer_channels_last
from proact.nn.prefix_cache import MemoryBudget
from proact.protect.activation_profile import check_granularity
from proact.protect.checkpointing import MethodRun
from proact.protect.clips import Clips
from proact.protect.gradient_table import GradientTable
from proact.protect.method import ClipMethod
from proact.protect.model_suffix import ModelSuffix, ModelSuffixes, TrainedPart
from proact.protect.objective import CLASSES, Objective, class_dimension, soft_cross_entropy
from proact.protect.options import TrainedOptions, checked_count, checked_factors, checked_positive
from proact.protect.threshold_trainer import ThresholdTrainer, wide_copy

#: The fewest batches whose gradients tell their mean from their scatter.
_FEWEST = 4


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
    prefer_channels_last((model,), examples(data.train), objective.forward)
    bounds = options.profiled(model, data, options.granularity, run, objective.forward)
    trainer = ThresholdTrainer(model, run.with_finished(bounds), data, options, objective)
    if not trainer.teacher.is_defined:
        run.report(
            "the outputs are no logits of classes for the targets: training uses the loss alone, "
            "without the soft targets of the unclipped model"
        )
    if not trainer.tolerance.can_accept:
        return trainer.deployed_clips()
    suffixes = ModelSuffixes(trainer, trainer.sites[::-1], MemoryBudget(options.cache_bytes))
    # The estimate of the time left assumes that two decays are tried.
    for number, site in enumerate(run.unfinished(reversed(bounds), trainer.expected_seconds(2))):
        suffix = suffixes.at(site)
        if number == 0:  # in a resumed run, later sites have trained thresholds
            trainer.set_reference(suffix.validation)
        best = bounds[site]
        training = SiteTraining(trainer, site, suffix, options)
        trains = can_train(trainer, site, suffix, run)
        for decay in options.decays if trains else ():
            training.train(decay)
            verdict = suffix.judge()
            run.report_candidate(site, f"decay {decay:g}", verdict)
            if verdict.accepted:
                best = trainer.clip(site).threshold.detach().clone()
                trainer.tolerance.set_reference(verdict.drops)
                break
        trainer.set_threshold(site, best)
        run.finish(site, best)
        suffix.close()
    return trainer.deployed_clips()


def can_train(trainer: ThresholdTrainer, site: Site, suffix: ModelSuffix, run: MethodRun) -> bool:
    """Whether the threshold of ``site`` influences the logits.

    Reports a threshold that does not, and a model that cannot be cut.
    """
    if not trainer.has_gradient(suffix.first, trainer.clip(site).threshold):
        run.report(
            f"{site.name}: no gradient reaches it (the logits do not depend on it, or it runs "
            "under torch.no_grad), so it is not trained"
        )
        return False
    if not suffix.is_cut and site == trainer.sites[-1]:
        run.report(f"torch.fx cannot cut the model at {site.name}: each step runs the whole model")
    return True


class SiteTraining:
    """The training of one site's threshold, with one decay after the other.

    A vector of thresholds (of channels or neurons) follows its gradient on batches of the training
    images. A scalar threshold follows a `GradientTable`, which is computed once for all decays.

    AdamW works on the threshold relative to its start: activations of different layers differ by
    orders of magnitude, and one learning rate has to suit all of them.

    Args:
        trainer: holds the model and the images.
        site: where the threshold is, now at its start.
        part: the part of the model that runs.
        options: of the method.
        tabulate: whether a scalar threshold follows the table. False trains it like a vector, which
            the table is compared with; so do too few training images for `_FEWEST` batches.
    """

    def __init__(
        self,
        trainer: ThresholdTrainer,
        site: Site,
        part: TrainedPart,
        options: ProactOptions,
        tabulate: bool = True,
    ) -> None:
        self._trainer, self._site, self._part, self._options = trainer, site, part, options
        self._loss = functools.partial(distillation_loss, objective=trainer.objective)
        self._start = wide_copy(trainer.clip(site).threshold)
        is_scalar = self._start.numel() == 1
        self._is_tabulated = tabulate and is_scalar and len(trainer.tabulated) >= _FEWEST

    def train(self, decay: float) -> None:
        """Trains from the start on, and leaves the threshold where training ends.

        Args:
            decay: the weight decay per unit of learning rate, one of the options' ``decays``.
        """
        if self._is_tabulated:
            end = self._ends[self._options.decays.index(decay)]
            self._set(torch.full_like(self._start, end))
            return
        relative = torch.ones_like(self._start, requires_grad=True)
        optimizer, cosine = self._optimizer(relative, decay)
        self._set(relative.detach())
        threshold = self._trainer.clip(self._site).threshold
        generator = torch.Generator().manual_seed(self._options.seed)
        for _ in range(self._options.epochs):
            for batch in self._trainer.batches(generator):
                (gradient,) = self._trainer.gradient(
                    self._part.train, [threshold], batch, self._loss
                )
                relative.grad = gradient * self._start
                optimizer.step()
                cosine.step()
                relative.data.clamp_(min=0.0)
                self._set(relative.detach())

    def _optimizer(self, relative: Tensor, decay: float) -> tuple[AdamW, CosineAnnealingLR]:
        optimizer = AdamW([relative], lr=self._options.learning_rate, weight_decay=decay)
        return optimizer, CosineAnnealingLR(optimizer, self._steps)

    @property
    def _steps(self) -> int:
        return self._trainer.steps_per_epoch * self._options.epochs

    @cached_property
    def _ends(self) -> list[float]:
        """Where training ends for each decay, relative to the start, by the table."""
        table = GradientTable(self._gradients)
        generator = torch.Generator().manual_seed(self._options.seed)
        batches = torch.randint(table.batches, (self._steps,), generator=generator).tolist()
        draws = torch.rand(self._steps, generator=generator).tolist()
        decays = torch.tensor(self._options.decays)
        relative = torch.ones(len(decays), requires_grad=True)
        # AdamW decays all elements of a tensor alike, so each gets its own decay here.
        optimizer, cosine = self._optimizer(relative, decay=0.0)
        for batch, draw in zip(batches, draws, strict=True):
            found = [table.read(each, batch, draw) for each in relative.tolist()]
            relative.grad = torch.tensor(found)
            relative.data.mul_(1.0 - optimizer.param_groups[0]["lr"] * decays)
            optimizer.step()
            cosine.step()
            # The table knows no gradients above the start, where nothing is clipped.
            relative.data.clamp_(0.0, 1.0)
        return relative.tolist()

    def _gradients(self, relative: float) -> Tensor:
        """The gradient of each tabulated batch for the relative threshold, (batches,)."""
        self._set(torch.full_like(self._start, relative))
        threshold = self._trainer.clip(self._site).threshold
        found = [
            self._trainer.gradient(self._part.first, [threshold], batch, self._loss)[0]
            for batch in self._trainer.tabulated
        ]
        return torch.stack(found).flatten() * self._start.flatten()

    def _set(self, relative: Tensor) -> None:
        self._trainer.set_threshold(self._site, relative * self._start)


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
