"""The part of a trainer's model that training a threshold runs: all of it, or from one site on."""

from __future__ import annotations

from functools import cached_property

from proact.nn import Site
from proact.nn.batches import Batch, take
from proact.nn.graph_cut import GraphCut
from proact.nn.prefix_cache import MemoryBudget, PrefixCache
from proact.protect.threshold_trainer import ThresholdTrainer
from proact.protect.tolerance import Verdict

#: The most training images, of all processes, whose gradients are tabulated.
TABULATED = 256


class TrainedPart:
    """The part of a trainer's model that training runs, with its prefix caches.

    Attributes:
        first: gives the outputs for the first `TABULATED` training images.
        train: gives them for all training images.
    """

    def __init__(
        self, trainer: ThresholdTrainer, cut: GraphCut | None, budget: MemoryBudget
    ) -> None:
        self._trainer, self._cut, self._budget = trainer, cut, budget
        self._caches: list[PrefixCache] = []
        own = -(-TABULATED // trainer.context.world_size)
        self.first = self._cache(take(trainer.train.inputs, slice(0, own)))
        with trainer.in_mode(trainer.options.mode):
            self._validation = self._cache(trainer.validation.inputs)

    @cached_property
    def train(self) -> PrefixCache:
        return self._cache(self._trainer.train.inputs)

    def judge(self) -> Verdict:
        """Whether the thresholds stay within the tolerance, in the mode that is deployed."""
        return self._trainer.judge(self._validation)

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
