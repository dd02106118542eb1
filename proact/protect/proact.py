"""ProAct: thresholds trained one site at a time, from the last site to the first.

S. Mousavi, M. H. Ahmadilivani, J. Raik, M. Jenihhin, M. Daneshtalab, "ProAct: Progressive
Training for Hybrid Clipped Activation Function to Enhance Resilience of DNNs", arXiv 2406.06313.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proact.data import Data
from proact.nn import Site
from proact.nn.prefix_cache import MemoryBudget
from proact.protect.checkpointing import Session
from proact.protect.clips import Clips
from proact.protect.options import TrainedOptions, checked_count, checked_factors, checked_positive
from proact.protect.profile import check_granularity
from proact.protect.threshold_trainer import FromSite, Student, Whole, wide_copy


@dataclass(frozen=True)
class ProactOptions(TrainedOptions):
    """Options of ``protect(model, "proact", ...)``, beside those of `TrainedOptions`.

    Attributes:
        granularity: ``"hybrid"`` (published), ``"layer"``, ``"channel"`` or ``"neuron"``.
        decays: weight decays of the threshold, tried from the first to the last, at each site until
            one keeps within the tolerance; where none does, the threshold stays where it starts (at
            the profile's maximum, unless ``quantile`` says otherwise).
        learning_rate: of AdamW, as a share of the profile's maximum.
        cache_bytes: what the activations that lead to a site may take in memory, so that they are
            computed once; where they need more, they are computed anew in each step. The
            thresholds are the same up to rounding.
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


def proact(model: nn.Module, data: Data, options: ProactOptions, session: Session) -> Clips:
    bounds = options.profiled(model, data, options.granularity)
    student = Student(model, session.resumed(bounds), data, options)
    budget = MemoryBudget(options.cache_bytes)
    # Usually the second decay or so is accepted.
    for site in session.unfinished(reversed(bounds), student.expected_seconds(2)):
        behind = FromSite(student, site, budget)
        for decay in options.decays if can_train(student, site, behind, session) else ():
            kept = train_threshold(student, site, behind, decay, options)
            accepted = kept >= student.least
            verdict = "accepted" if accepted else "costs too much"
            session.tried(site, f"decay {decay:g}", kept, verdict)
            if accepted:
                break
            student.set_threshold(site, bounds[site])
        session.finish(site, student.clip(site).threshold)
        behind.close()
    return student.deployed()


def can_train(student: Student, site: Site, behind: FromSite, session: Session) -> bool:
    """Whether the threshold decides the logits at all; tells where not, and where it is slow."""
    if not student.decides(behind.train, student.clip(site).threshold):
        session.tell(
            f"{site.name}: no gradient reaches it (it does not decide the logits, or runs under "
            "torch.no_grad), so it is not trained"
        )
        return False
    if not behind.is_cut and site == student.sites[-1]:
        session.tell(f"torch.fx cannot cut the network at {site.name}: it runs whole in each step")
    return True


def train_threshold(
    student: Student, site: Site, behind: Whole | FromSite, decay: float, options: ProactOptions
) -> float:
    """Trains the one threshold, leaves it in its best state and returns that validation accuracy.

    AdamW works on the threshold in units of where it starts: activations of different layers differ
    by orders of magnitude, and one learning rate has to fit all of them.
    """
    threshold = student.clip(site).threshold
    unit = wide_copy(threshold)
    relative = torch.ones_like(unit, requires_grad=True)
    steps = student.steps * options.epochs
    optimizer = torch.optim.AdamW([relative], lr=options.learning_rate, weight_decay=decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(options.seed)

    best, best_threshold = -1.0, threshold.detach().clone()
    for _ in range(options.epochs):
        for batch in student.batches(generator):
            (gradient,) = student.gradient(behind.train, [threshold], batch, distilled)
            relative.grad = gradient * unit
            optimizer.step()
            cosine.step()
            relative.data.clamp_(min=0.0)
            student.set_threshold(site, relative.detach() * unit)
        kept = behind.accuracy()
        if kept >= best:  # among equals the latest: it is the tightest
            best, best_threshold = kept, threshold.detach().clone()
    student.set_threshold(site, best_threshold)
    return best


def distilled(output: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """0.8 CE + 0.1 KD (arXiv 2406.06313, section III; the decay is AdamW's), summed over images.

    KD is the cross-entropy to the unclipped network's soft targets at temperature 1.
    """
    return 0.8 * F.cross_entropy(output, labels, reduction="sum") + 0.1 * F.cross_entropy(
        output, teacher, reduction="sum"
    )
