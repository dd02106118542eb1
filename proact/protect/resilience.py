"""Resilience-aware ProAct: at each site, of ProAct's trained thresholds and the profile's
quantiles, those that keep most accuracy under faults; ours, after arXiv 2406.06313.

ProAct keeps the strongest decay that the tolerance admits. Clean accuracy says little of what a
tighter threshold buys under faults, and past some point it costs more than it buys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from proact.data import Data
from proact.encodings import Encoding, encoding_named
from proact.faults import BitFlip
from proact.nn import Site
from proact.nn.module_copy import copy_sharing_parameters
from proact.nn.prefix_cache import MemoryBudget
from proact.nn.sites import place_at_sites
from proact.ops.plan import checked_ber
from proact.protect.checkpointing import Session
from proact.protect.clips import Clips, clips_at
from proact.protect.distributed import Ranks
from proact.protect.fault_scoring import UnderFaults
from proact.protect.options import checked_count
from proact.protect.proact import ProactOptions, can_train, train_threshold
from proact.protect.profile import check_quantile, profile_quantiles
from proact.protect.threshold_trainer import FromSite, Student


@dataclass(frozen=True)
class ResilienceAwareOptions(ProactOptions):
    """Options of ``protect(model, "resilience-aware-proact", ...)``, beside those of
    `ProactOptions`.

    Attributes:
        quantiles: candidates that are not trained, as shares of the training images that do not
            exceed them (see `proact.protect.profile_quantiles`).
        decays: of the candidates that are trained, all from the option ``quantile``'s thresholds.
        ber: bit error rate, per stored bit, at which candidates are compared: flips in all stored
            tensors, thresholds included.
        encoding: the stored form meanwhile.
        patterns: fault patterns, the same for every candidate (count).
        images_per_pattern: validation images a pattern (count).

    Candidates that cost more than the tolerance are left out; where all do, the threshold stays
    where it starts.
    """

    decays: tuple[float, ...] = (1.0, 0.3)
    quantiles: tuple[float, ...] = (1.0, 0.99, 0.95, 0.9, 0.8, 0.5)
    ber: float = 3e-5
    encoding: str | Encoding = "q15.16"
    patterns: int = 100
    images_per_pattern: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.quantiles, (tuple, list)):
            raise ValueError(f"quantiles is a tuple of shares, got {self.quantiles!r}")
        for quantile in self.quantiles:
            check_quantile(quantile)
        checked_ber(self.ber)
        encoding_named(self.encoding)
        checked_count("patterns", self.patterns)
        checked_count("images_per_pattern", self.images_per_pattern)


def resilience_aware_proact(
    model: nn.Module, data: Data, options: ResilienceAwareOptions, session: Session
) -> Clips:
    start, *untrained = profile_quantiles(
        model,
        data.train.images,
        options.granularity,
        (options.quantile, *options.quantiles),
        kinds=options.activations,
    )
    thresholds = Ranks.current().from_first(lambda: session.resumed(start))
    # Before the trainer puts the weights into another order in memory.
    faulty = UnderFaults(
        place_at_sites(
            copy_sharing_parameters(model), clips_at(thresholds, options.mode, options.slope)
        ),
        encoding_named(options.encoding),
        data.validation,
        options.patterns,
        options.images_per_pattern,
        options.seed,
    )
    student = Student(model, thresholds, data, options)
    budget = MemoryBudget(options.cache_bytes)
    for site in session.unfinished(reversed(start), student.expected_seconds(len(options.decays))):
        behind = FromSite(student, site, budget)
        best, best_threshold = -1.0, start[site]
        trains = can_train(student, site, behind, session)
        for what in _candidates(student, site, behind, start, untrained, options, trains):
            kept = behind.accuracy()
            if kept < student.least:
                session.tried(site, what, kept, "costs too much")
                continue
            threshold = student.clip(site).threshold.detach().clone()
            faulty.set_threshold(site, threshold)
            found = faulty.accuracy(BitFlip(options.ber))
            session.tried(site, what, kept, f"{found:.4f} under faults")
            if found > best:
                best, best_threshold = found, threshold
        student.set_threshold(site, best_threshold)
        faulty.set_threshold(site, best_threshold)
        session.finish(site, best_threshold)
        behind.close()
    return student.deployed()


def _candidates(
    student: Student,
    site: Site,
    behind: FromSite,
    start: dict[Site, Tensor],
    untrained: list[dict[Site, Tensor]],
    options: ResilienceAwareOptions,
    trains: bool,
) -> Iterator[str]:
    """Puts one after the other into the student, and says which it is."""
    for quantile, thresholds in zip(options.quantiles, untrained, strict=True):
        student.set_threshold(site, thresholds[site])
        yield f"quantile {quantile:g}"
    for decay in options.decays if trains else ():
        student.set_threshold(site, start[site])
        train_threshold(student, site, behind, decay, options)
        yield f"decay {decay:g}"
