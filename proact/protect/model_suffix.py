"""The part of a trainer's model that training a threshold runs: all of it, or from one site on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

from proact.nn import Site
from proact.nn.batches import Batch, take
from proact.nn.graph_cut import GraphCut
from proact.nn.prefix_cache import MemoryBudget, PrefixCache, fill_together
from proact.protect.threshold_trainer import ThresholdTrainer
from proact.protect.tolerance import Verdict

_BATCH = 256  # samples that run at a time


class TrainedPart:
    """The part of a trainer's model that training runs, with its prefix caches.

    Attributes:
        first: gives the outputs for the training images whose gradients are tabulated.
        train: gives them for all training images.
        validation: gives them for the validation images, with clips in the mode that is deployed.
    """

    def __init__(
        self, trainer: ThresholdTrainer, cut: GraphCut | None, budget: MemoryBudget
    ) -> None:
        self._trainer, self._cut, self._budget = trainer, cut, budget
        self._caches: list[PrefixCache] = []
        world = trainer.context.world_size
        tabulated = max(len(trainer.tabulated) * trainer.options.batch, 2 * world)
        self.first = self._cache(take(trainer.train.inputs, slice(0, -(-tabulated // world))))
        # Together, the processes judge by as many samples at a time as one process does.
        self.validation = self._cache(trainer.validation.inputs, -(-_BATCH // world))

    @cached_property
    def train(self) -> PrefixCache:
        return self._cache(self._trainer.train.inputs)

    def judge(self) -> Verdict:
        """Whether the thresholds stay within the tolerance, in the mode that is deployed."""
        return self._trainer.judge(self.validation)

    @property
    def is_cached(self) -> bool:
        """Whether the activations of the first training and the validation images are kept."""
        return bool(self.first.bytes and self.validation.bytes)

    def close(self) -> None:
        """Frees the caches and returns their memory to the budget."""
        for cache in self._caches:
            cache.close()

    def _cache(self, inputs: Batch, batch: int = _BATCH) -> PrefixCache:
        trainer = self._trainer
        cache = PrefixCache(
            trainer.model,
            self._cut,
            inputs,
            self._budget,
            batch=batch,
            forward=trainer.objective.forward,
        )
        self._caches.append(cache)
        return cache


class WholeModel(TrainedPart):
    """The whole model, for training all thresholds at once; nothing is cached."""

    def __init__(self, trainer: ThresholdTrainer) -> None:
        super().__init__(trainer, None, MemoryBudget(0))


class ModelSuffix(TrainedPart):
    """The model from one site on, for training the threshold of this site.

    The activations that reach the site are cached, so earlier thresholds must not change before
    `close`.

    Args:
        trainer: holds the model and the images.
        site: where the suffix begins.
        budget: bounds the memory of the caches, of training and validation images.

    Attributes:
        is_cut: whether the model could be cut at the site. Otherwise it runs whole in each step.
    """

    def __init__(self, trainer: ThresholdTrainer, site: Site, budget: MemoryBudget) -> None:
        cut = trainer.traced.cut_at(trainer.clip(site))
        self.is_cut = cut is not None
        super().__init__(trainer, cut, budget)

    def reached_from(self, sites: Collection[Site]) -> bool:
        """Whether an activation that crosses the cut passes one of ``sites`` (in a branch)."""
        assert self._cut is not None
        called = {str(node.target) for node in self._cut.before.graph.nodes}
        return any(site.name in called for site in sites)


class ModelSuffixes:
    """The suffixes of a model, from the last site to the first.

    One pass over the images fills the caches of as many scalar sites as the budget allows, where
    no activation that reaches a site passes a threshold that is trained before it. They keep their
    memory until their site is trained. A vector of thresholds trains on many more images, whose
    cache may need the whole budget.

    Args:
        trainer: holds the model and the images.
        sites: in the order of training.
        budget: bounds the memory of the caches.
    """

    def __init__(
        self, trainer: ThresholdTrainer, sites: Sequence[Site], budget: MemoryBudget
    ) -> None:
        self._trainer, self._sites, self._budget = trainer, list(sites), budget
        self._ready: dict[Site, ModelSuffix] = {}

    def at(self, site: Site) -> ModelSuffix:
        """The suffix from ``site`` on, with its own caches."""
        if site not in self._ready:
            self._prepare(self._sites[self._sites.index(site) :])
        return self._ready.pop(site)

    def _prepare(self, sites: Sequence[Site]) -> None:
        trainer = self._trainer
        self._ready = {sites[0]: ModelSuffix(trainer, sites[0], self._budget)}
        if trainer.clip(sites[0]).threshold.numel() > 1:
            return
        for site in sites[1:]:
            if trainer.clip(site).threshold.numel() > 1:
                break
            suffix = ModelSuffix(trainer, site, self._budget)
            if not suffix.is_cached or suffix.reached_from(self._ready):
                suffix.close()
                break
            self._ready[site] = suffix
        suffixes = list(self._ready.values())
        if len(suffixes) > 1:
            fill_together(trainer.traced, [suffix.first for suffix in suffixes])
            with trainer.in_mode(trainer.options.mode):
                fill_together(trainer.traced, [suffix.validation for suffix in suffixes])
