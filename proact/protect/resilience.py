"""Resilience-aware ProAct: the threshold that keeps most accuracy under faults, at each site.

This method is ours, after arXiv 2406.06313. ProAct keeps the strongest decay within the tolerance.
But accuracy without faults does not show how much a tighter threshold gains under faults, and
beyond some point it costs more than it gains. This method compares ProAct's trained thresholds and
the profile's quantiles under faults instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from proact.data import Data
from proact.faults import BitFlip
from proact.faults.mixed_encoding import EncodingLike, checked_encoding, named_or_checked
from proact.nn import Site
from proact.nn.module_copy import copy_sharing_parameters
from proact.nn.prefix_cache import MemoryBudget
from proact.nn.sites import place_at_sites
from proact.ops.plan import checked_ber
from proact.protect.activation_profile import check_quantile
from proact.protect.checkpointing import MethodRun
from proact.protect.clips import Clips, clips_at
from proact.protect.distributed import DistributedContext
from proact.protect.fault_scoring import FaultScorer
from proact.protect.method import ClipMethod
from proact.protect.model_suffix import ModelSuffix, ModelSuffixes
from proact.protect.objective import CLASSES, Objective
from proact.protect.options import checked_count
from proact.protect.proact import ProactOptions, SiteTraining, can_train
from proact.protect.threshold_trainer import ThresholdTrainer
from proact.text import short_repr


@dataclass(frozen=True)
class ResilienceAwareOptions(ProactOptions):
    """Options of ``protect(model, "resilience-aware-proact", ...)``, in addition to those of
    `ProactOptions`.

    Candidates that cost more than the tolerance are left out. If all do, the threshold stays where
    it starts.

    Attributes:
        decays: weight decays of the trained candidates; each is trained from the start that
            ``quantile`` sets.
        quantiles: untrained candidates, as quantiles of the profile in (0, 1] (see
            `proact.protect.profile_quantiles`).
        ber: bit error rate, per stored bit, at which candidates are compared. Flips hit all stored
            tensors, thresholds included.
        encoding: the stored form that these flips hit.
        patterns: the number of fault patterns, the same for every candidate.
        images_per_pattern: the number of validation images that run under each pattern.
    """

    decays: tuple[float, ...] = (1.0, 0.3)
    quantiles: tuple[float, ...] = (1.0, 0.99, 0.95, 0.9, 0.8, 0.5)
    ber: float = 3e-5
    encoding: EncodingLike = "q15.16"
    patterns: int = 100
    images_per_pattern: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.quantiles, (tuple, list)):
            raise ValueError(
                f"quantiles is a tuple of shares in (0, 1], got {short_repr(self.quantiles)}"
            )
        for quantile in self.quantiles:
            check_quantile(quantile)
        checked_ber(self.ber)
        object.__setattr__(self, "encoding", named_or_checked(self.encoding))
        checked_count("patterns", self.patterns)
        checked_count("images_per_pattern", self.images_per_pattern)


def resilience_aware_proact(
    model: nn.Module,
    data: Data,
    options: ResilienceAwareOptions,
    run: MethodRun,
    objective: Objective = CLASSES,
) -> Clips:
    """The clips that resilience-aware ProAct chooses for ``model``, a working copy."""
    quantiles = (options.quantile, *options.quantiles)
    start, *untrained = options.profiled_at(
        model, data, options.granularity, quantiles, run, objective.forward
    )
    thresholds = DistributedContext.current().broadcast(lambda: run.with_finished(start))
    clips = clips_at(thresholds, options.mode, options.slope)
    # The scorer is made first, because the trainer changes the memory order of the weights.
    scorer = FaultScorer(
        place_at_sites(copy_sharing_parameters(model), clips),
        checked_encoding(options.encoding),
        data.validation,
        options.patterns,
        options.images_per_pattern,
        options.seed,
        objective,
    )
    trainer = ThresholdTrainer(model, thresholds, data, options, objective)
    suffixes = ModelSuffixes(trainer, trainer.sites[::-1], MemoryBudget(options.cache_bytes))
    if not trainer.tolerance.can_accept:
        return trainer.deployed_clips()
    expected = trainer.expected_seconds(len(options.decays))
    for number, site in enumerate(run.unfinished(reversed(start), expected)):
        suffix = suffixes.at(site)
        if number == 0:  # in a resumed run, later sites have trained thresholds
            trainer.set_reference(suffix.validation)
        best, best_threshold = -1.0, start[site]
        trains = can_train(trainer, site, suffix, run)
        for name in _candidates(trainer, site, suffix, untrained, options, trains):
            verdict = suffix.judge()
            if not verdict.accepted:
                run.report_candidate(site, name, verdict)
                continue
            threshold = trainer.clip(site).threshold.detach().clone()
            scorer.set_threshold(site, threshold)
            score = scorer.accuracy(BitFlip(options.ber))
            run.report_candidate(site, name, verdict, f"{score:.4f} under faults")
            if score > best:
                best, best_threshold = score, threshold
                trainer.tolerance.set_reference(verdict.drops)
        trainer.set_threshold(site, best_threshold)
        scorer.set_threshold(site, best_threshold)
        run.finish(site, best_threshold)
        suffix.close()
    return trainer.deployed_clips()


def _candidates(
    trainer: ThresholdTrainer,
    site: Site,
    suffix: ModelSuffix,
    untrained: list[dict[Site, Tensor]],
    options: ResilienceAwareOptions,
    trains: bool,
) -> Iterator[str]:
    """Sets the threshold of ``site`` to each candidate in turn and yields the candidate's name."""
    training = SiteTraining(trainer, site, suffix, options)
    for quantile, thresholds in zip(options.quantiles, untrained, strict=True):
        trainer.set_threshold(site, thresholds[site])
        yield f"quantile {quantile:g}"
    for decay in options.decays if trains else ():
        training.train(decay)
        yield f"decay {decay:g}"


METHOD = ClipMethod(resilience_aware_proact, ResilienceAwareOptions, resumes=True)
