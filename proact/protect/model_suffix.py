"""The part of a trainer's model that training a threshold runs: all of it, or from one site on."""

from __future__ import annotations

from proact.nn import Site
from proact.nn.prefix_cache import MemoryBudget, PrefixCache
from proact.protect.threshold_trainer import ThresholdTrainer


class _TrainedPart:
    """The part of a trainer's model that training runs, with its prefix caches.

    Attributes:
        train: gives the outputs for the training images.
    """

    train: PrefixCache
    _trainer: ThresholdTrainer
    _soft: PrefixCache
    _deployed: PrefixCache

    def accuracy(self) -> float:
        """The lower of the validation accuracies (or metrics) in soft and in deployed mode.

        Where activations are small against 1 / slope, the soft clip is nearly linear: its threshold
        can shrink at no cost, and would cut everything in deployed mode.
        """
        soft = self._trainer.accuracy(self._soft)
        mode = self._trainer.options.mode
        if mode == "soft":
            return soft
        with self._trainer.in_mode(mode):
            return min(soft, self._trainer.accuracy(self._deployed))


class WholeModel(_TrainedPart):
    """The whole model, for training all thresholds at once; nothing is cached."""

    def __init__(self, trainer: ThresholdTrainer) -> None:
        self._trainer = trainer
        nothing, forward = MemoryBudget(0), trainer.objective.forward
        self.train = PrefixCache(
            trainer.model, None, trainer.train.inputs, nothing, forward=forward
        )
        self._soft = PrefixCache(
            trainer.model, None, trainer.validation.inputs, nothing, forward=forward
        )
        self._deployed = self._soft


class ModelSuffix(_TrainedPart):
    """The model from one site on, for training the threshold of this site.

    The activations that reach the site are cached, so earlier thresholds must not change before
    `close`.

    Args:
        trainer: holds the model and the images.
        site: where the suffix begins.
        budget: bounds the memory of the three caches (training images, and validation images in
            soft and in deployed mode).

    Attributes:
        is_cut: whether the model could be cut at the site. Otherwise it runs whole in each step.
    """

    def __init__(self, trainer: ThresholdTrainer, site: Site, budget: MemoryBudget) -> None:
        self._trainer = trainer
        model, mode = trainer.model, trainer.options.mode
        train, validation = trainer.train.inputs, trainer.validation.inputs
        forward = trainer.objective.forward
        cut = trainer.traced.cut_at(trainer.clip(site))
        self.is_cut = cut is not None
        self.train = PrefixCache(model, cut, train, budget, forward=forward, fold=True)
        self._soft = PrefixCache(model, cut, validation, budget, forward=forward)
        with trainer.in_mode(mode):
            self._deployed = PrefixCache(model, cut, validation, budget, forward=forward)

    def close(self) -> None:
        """Frees the caches and returns their memory to the budget."""
        for cache in (self.train, self._soft, self._deployed):
            cache.close()
