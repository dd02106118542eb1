"""ProAct: thresholds trained one site at a time, from the last site to the first.

S. Mousavi, M. H. Ahmadilivani, J. Raik, M. Jenihhin, M. Daneshtalab, "ProAct: Progressive
Training for Hybrid Clipped Activation Function to Enhance Resilience of DNNs", arXiv 2406.06313.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.data import Data, Split
from proact.models.training import accuracy, logits
from proact.nn import HyReLU, Site, replace_sites
from proact.ops.hyrelu import check_mode_and_slope
from proact.protect.profile import profile, reduce_profile


@dataclass(frozen=True)
class Schedule:
    """How one site's threshold is trained."""

    epochs: int
    batch: int
    learning_rate: float

    def __post_init__(self) -> None:
        for name, count in (("epochs", self.epochs), ("batch", self.batch)):
            if not count >= 1:
                raise ValueError(f"{name} is at least 1, got {count!r}")
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate is a finite number above 0, got {self.learning_rate!r}"
            )


def proact(
    model: nn.Module,
    data: Data,
    *,
    granularity: str = "hybrid",
    mode: str = "zero",
    tolerance: float = 0.015,
    slope: float = 20.0,
    decays: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01),
    epochs: int = 5,
    batch: int = 64,
    learning_rate: float = 0.02,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> nn.Module:
    """Options of ``protect(model, "proact", ...)``.

    Args:
        granularity: ``"hybrid"`` (published), ``"layer"``, ``"channel"`` or ``"neuron"``.
        mode: what the result deploys; ``"soft"`` keeps the trained form.
        tolerance: the most validation accuracy, in [0, 1], that may be lost against the unclipped
            network; a gain is never held against a threshold.
        slope: the steepness k of the soft clip.
        decays: weight decays of the threshold, tried from the first to the last, at each site until
            one keeps within the tolerance; where none does, the profile's maximum stays.
        epochs: passes over the training images for each decay tried.
        batch: images a step.
        learning_rate: of AdamW, as a share of the profile's maximum.
        seed: decides the order of the images.
        progress: called with a line of text for each decay tried.
    """
    check_mode_and_slope(mode, slope)
    _check_shares(tolerance, decays)
    schedule = Schedule(epochs, batch, learning_rate)
    student, thresholds = _with_soft_thresholds(model, data, granularity, slope)
    frozen = copy.deepcopy(model).eval()
    teacher = logits(frozen, data.train.images).softmax(1)
    least_accuracy = accuracy(frozen, data.validation) - tolerance

    for site in reversed(thresholds):
        activation = student.get_submodule(site.name)
        assert isinstance(activation, HyReLU)
        for decay in decays:
            reached = _train_threshold(student, activation, data, teacher, schedule, decay, seed)
            accepted = reached >= least_accuracy
            if progress is not None:
                verdict = "accepted" if accepted else "costs too much"
                progress(
                    f"{site.name}: decay {decay:g} keeps {reached:.4f} of validation, {verdict}"
                )
            if accepted:
                break
            activation.threshold.data.copy_(thresholds[site])

    for module in student.modules():
        if isinstance(module, HyReLU):
            module.mode = mode
    return student


def _check_shares(tolerance: float, decays: tuple[float, ...]) -> None:
    if not 0.0 <= tolerance <= 1.0:
        raise ValueError(f"tolerance is a share of the accuracy in [0, 1], got {tolerance!r}")
    if not decays or any(not decay >= 0.0 for decay in decays):
        raise ValueError(f"decays are one or more numbers of at least 0, got {decays!r}")


def _with_soft_thresholds(
    model: nn.Module, data: Data, granularity: str, slope: float
) -> tuple[nn.Module, dict[Site, Tensor]]:
    """A copy in eval mode (batch norm and dropout stay there) in which nothing requires grad."""
    thresholds = reduce_profile(profile(model, data.train.images), granularity)
    student = replace_sites(
        model,
        {site.name: HyReLU(start, "soft", slope) for site, start in thresholds.items()},
    )
    return student.eval().requires_grad_(False), thresholds


def _train_threshold(
    student: nn.Module,
    activation: HyReLU,
    data: Data,
    teacher: Tensor,
    schedule: Schedule,
    decay: float,
    seed: int,
) -> float:
    """Trains the one threshold, leaves it in its best state and returns that validation accuracy.

    AdamW works on the threshold in units of where it starts: activations of different layers differ
    by orders of magnitude, and one learning rate has to fit all of them.
    """
    unit = activation.threshold.detach().clone()
    relative = torch.ones_like(unit, requires_grad=True)
    steps = -(-len(data.train) // schedule.batch) * schedule.epochs
    optimizer = torch.optim.AdamW([relative], lr=schedule.learning_rate, weight_decay=decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)

    best, best_threshold = -1.0, unit
    for _ in range(schedule.epochs):
        for indices in torch.randperm(len(data.train), generator=generator).split(schedule.batch):
            optimizer.zero_grad()
            relative.grad = _gradient(student, activation, data.train, teacher, indices) * unit
            optimizer.step()
            cosine.step()
            relative.data.clamp_(min=0.0)
            activation.threshold.data.copy_(relative.detach() * unit)
        reached = accuracy(student, data.validation)
        if reached >= best:  # among equals the latest: it is the tightest
            best, best_threshold = reached, activation.threshold.detach().clone()
    activation.threshold.data.copy_(best_threshold)
    return best


def _gradient(
    student: nn.Module, activation: HyReLU, train: Split, teacher: Tensor, indices: Tensor
) -> Tensor:
    """Of 0.8 CE + 0.1 KD (arXiv 2406.06313, eq. 4; the decay is AdamW's) in the threshold.

    KD is the cross-entropy to the unclipped network's soft targets at temperature 1.
    """
    activation.threshold.requires_grad_(True)
    output = student(train.images[indices])
    loss = 0.8 * F.cross_entropy(output, train.labels[indices])
    loss = loss + 0.1 * F.cross_entropy(output, teacher[indices])
    (gradient,) = torch.autograd.grad(loss, activation.threshold)
    activation.threshold.requires_grad_(False)
    return gradient
