"""ProAct: thresholds trained one site at a time, from the last site to the first.

S. Mousavi, M. H. Ahmadilivani, J. Raik, M. Jenihhin, M. Daneshtalab, "ProAct: Progressive
Training for Hybrid Clipped Activation Function to Enhance Resilience of DNNs", arXiv 2406.06313.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.data import Data, Split
from proact.models.evaluation import accuracy, logits
from proact.nn import HyReLU, replace_sites
from proact.ops.hyrelu import check_mode_and_slope
from proact.ops.plan import SEEDS, checked_integer
from proact.protect.profile import check_granularity, profile, reduce_profile


@dataclass(frozen=True)
class ProactOptions:
    """Options of ``protect(model, "proact", ...)``.

    Attributes:
        granularity: ``"hybrid"`` (published), ``"layer"``, ``"channel"`` or ``"neuron"``.
        mode: what the result deploys; ``"soft"`` keeps the trained form.
        tolerance: the most validation accuracy, in [0, 1], that may be lost against the unclipped
            network, in the soft form and in the deployed one; a gain is never held against a
            threshold.
        slope: the steepness k of the soft clip, per unit of activation.
        decays: weight decays of the threshold, tried from the first to the last, at each site until
            one keeps within the tolerance; where none does, the profile's maximum stays.
        epochs: passes over the training images for each decay tried.
        batch: images a step.
        learning_rate: of AdamW, as a share of the profile's maximum.
        seed: decides the order of the images.
    """

    granularity: str = "hybrid"
    mode: str = "zero"
    tolerance: float = 0.015
    slope: float = 20.0
    decays: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
    epochs: int = 5
    batch: int = 64
    learning_rate: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_granularity(self.granularity)
        check_mode_and_slope(self.mode, self.slope)
        if not (_is_number(self.tolerance) and 0.0 <= self.tolerance <= 1.0):
            raise ValueError(
                f"tolerance is a share of the accuracy in [0, 1], got {self.tolerance!r}"
            )
        if not isinstance(self.decays, (tuple, list)) or not self.decays:
            raise ValueError(f"decays is a tuple of numbers, got {self.decays!r}")
        for decay in self.decays:
            if not (_is_number(decay) and 0.0 <= decay < math.inf):
                raise ValueError(f"decays are finite numbers of at least 0, got {decay!r}")
        for name, count in (("epochs", self.epochs), ("batch", self.batch)):
            if checked_integer(name, count, 1 << 31) == 0:
                raise ValueError(f"{name} is at least 1, got 0")
        if not (_is_number(self.learning_rate) and 0.0 < self.learning_rate < math.inf):
            raise ValueError(
                f"learning_rate is a finite number above 0, got {self.learning_rate!r}"
            )
        checked_integer("seed", self.seed, SEEDS)


def proact(
    model: nn.Module, data: Data, options: ProactOptions, progress: Callable[[str], None]
) -> nn.Module:
    profiled = reduce_profile(profile(model, data.train.images), options.granularity)
    student = replace_sites(
        model,
        {site: site.clip(bound, "soft", options.slope) for site, bound in profiled.items()},
    )
    # In eval mode batch norm and dropout do not move; without grad nothing but a threshold can.
    trainable = {name for name, p in student.named_parameters() if p.requires_grad}
    student.eval().requires_grad_(False)
    unclipped = copy.deepcopy(model).eval()
    teacher = logits(unclipped, data.train.images).softmax(1)
    least = accuracy(unclipped, data.validation) - options.tolerance

    for site in reversed(profiled):
        activation = student.get_submodule(site.name)
        assert isinstance(activation, HyReLU)
        for decay in options.decays:
            kept = _train_threshold(student, activation, data, teacher, decay, options)
            verdict = "accepted" if kept >= least else "costs too much"
            progress(f"{site.name}: decay {decay:g} keeps {kept:.4f} of validation, {verdict}")
            if kept >= least:
                break
            activation.threshold.data.copy_(profiled[site])

    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in trainable)
    _set_mode(student, options.mode)
    return student


def _train_threshold(
    student: nn.Module,
    activation: HyReLU,
    data: Data,
    teacher: Tensor,
    decay: float,
    options: ProactOptions,
) -> float:
    """Trains the one threshold, leaves it in its best state and returns that validation accuracy.

    AdamW works on the threshold in units of where it starts: activations of different layers differ
    by orders of magnitude, and one learning rate has to fit all of them.
    """
    unit = activation.threshold.detach().clone()
    relative = torch.ones_like(unit, requires_grad=True)
    steps = -(-len(data.train) // options.batch) * options.epochs
    optimizer = torch.optim.AdamW([relative], lr=options.learning_rate, weight_decay=decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(options.seed)

    best, best_threshold = -1.0, unit
    for _ in range(options.epochs):
        for indices in torch.randperm(len(data.train), generator=generator).split(options.batch):
            optimizer.zero_grad()
            relative.grad = _gradient(student, activation, data.train, teacher, indices) * unit
            optimizer.step()
            cosine.step()
            relative.data.clamp_(min=0.0)
            activation.threshold.data.copy_(relative.detach() * unit)
        kept = _validated(student, data.validation, options.mode)
        if kept >= best:  # among equals the latest: it is the tightest
            best, best_threshold = kept, activation.threshold.detach().clone()
    activation.threshold.data.copy_(best_threshold)
    return best


def _gradient(
    student: nn.Module, activation: HyReLU, train: Split, teacher: Tensor, indices: Tensor
) -> Tensor:
    """Of 0.8 CE + 0.1 KD (arXiv 2406.06313, section III; the decay is AdamW's) in the threshold.

    KD is the cross-entropy to the unclipped network's soft targets at temperature 1.
    """
    activation.threshold.requires_grad_(True)
    output = student(train.images[indices])
    loss = 0.8 * F.cross_entropy(output, train.labels[indices])
    loss = loss + 0.1 * F.cross_entropy(output, teacher[indices])
    (gradient,) = torch.autograd.grad(loss, activation.threshold)
    activation.threshold.requires_grad_(False)
    return gradient


def _validated(student: nn.Module, validation: Split, deployed: str) -> float:
    """The lower of the accuracies in the soft and in the deployed form: where activations are small
    against 1/slope, a soft threshold can shrink unpunished and cut everything once it is hard."""
    soft = accuracy(student, validation)
    if deployed == "soft":
        return soft
    with _in_mode(student, deployed):
        return min(soft, accuracy(student, validation))


@contextmanager
def _in_mode(student: nn.Module, mode: str) -> Iterator[None]:
    _set_mode(student, mode)
    try:
        yield
    finally:
        _set_mode(student, "soft")


def _set_mode(student: nn.Module, mode: str) -> None:
    for module in student.modules():
        if isinstance(module, HyReLU):
            module.mode = mode


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
