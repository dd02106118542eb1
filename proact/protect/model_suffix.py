"""The part of a trainer's model that training a threshold runs: all of it, or from one site on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from proact.nn import Site
from proact.nn.batches import Batch, take
from proact.nn.graph_cut import GraphCut
from proact.nn.prefix_cache import MemoryBudget, PrefixCache, fill_together
from proact.protect.threshold_trainer import ThresholdTrainer
from proact.protect.tolerance import Verdict

#: The most training images, of all processes, whose gradients are tabulated.
TABULATED = 256


class TrainedPart:
    """The part of a trainer's model that training runs, with its prefix caches.

    Attributes:
        first: gives the outputs for the first `TABULATED` training images.
        train: gives them for all training images.
        validation: gives them for the validation images, with clips in the mode that is deployed.
    """

    def __init__(
        self, trainer: ThresholdTrainer, cut: GraphCut | None, budget: MemoryBudget
    ) -> None:
        self._trainer, self._cut, self._budget = trainer, cut, budget
        self._caches: list[PrefixCache] = []
        own = -(-TABULATED // trainer.context.world_size)
        self.first = self._cache(take(trainer.train.inputs, slice(0, own)))
        with trainer.in_mode(trainer.options.mode):
            self.validation = self._cache(trainer.validation.inputs)

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

    def _cache(self, inputs: Batch) -> PrefixCache:
        trainer = self._trainer
        cache = PrefixCache(
            trainer.model, self._cut, inputs, self._budget, forward=trainer.objective.forward
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


class ModelSuffixes:
    """The suffixes of a model, from the last site to the first.

    Where every threshold is a scalar, one pass over the images fills the caches of all sites that
    the budget allows: no threshold before a site changes until the site's own is trained. A vector
    of thresholds trains on many more images, whose cache may need the whole budget.

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
        trainer, first = self._trainer, sites[0]
        for site in sites:
            if site != first and trainer.clip(site).threshold.numel() > 1:
                break
            suffix = ModelSuffix(trainer, site, self._budget)
            if site != first and not suffix.is_cached:
                suffix.close()
                break
            self._ready[site] = suffix
            if trainer.clip(site).threshold.numel() > 1:
                break
        suffixes = list(self._ready.values())
        if len(suffixes) > 1:
            fill_together(trainer.traced, [suffix.first for suffix in suffixes])
            with trainer.in_mode(trainer.options.mode):
                fill_together(trainer.traced, [suffix.validation for suffix in suffixes])
