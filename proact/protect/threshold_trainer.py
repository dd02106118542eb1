"""Train the thresholds of a clipped model, and evaluate it on validation images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from proact.data import Data, Split
from proact.data.dataset import stratified_parts
from proact.models.evaluation import logits
from proact.nn import HyReLU, Site
from proact.nn.graph_cut import TracedModel
from proact.nn.module_copy import copy_sharing_parameters
from proact.nn.prefix_cache import MemoryBudget, PrefixCache
from proact.nn.sites import place_at_sites
from proact.protect.clips import Clips, clips_at
from proact.protect.distributed import DistributedContext
from proact.protect.options import TrainedOptions

#: A loss, summed over the images, of logits (images, classes), labels (images,) and the unclipped
#: model's probabilities (images, classes).
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class ThresholdTrainer:
    """A model with a soft clip at every site, whose thresholds alone are trained.

    Batch norm and dropout stay in eval mode, and no weight requires grad. The probabilities that
    the unclipped model gives to the training images are computed once.

    Args:
        model: a working copy. The clipped model shares its weights, which the trainer puts into
            the channels-last order and excludes from autograd.
        bounds: the threshold of each site to start from, in execution order.
        data: training and validation images are used, test images are not.
        options: of the method.

    Attributes:
        model: the clipped model, in soft mode.
        sites: the sites, in execution order.
        train, validation: the images of this process.
        teacher: the unclipped model's probabilities for ``train``, (images, classes).
        required_accuracy: the lowest validation accuracy within the tolerance.

    Raises:
        ValueError: fewer images than processes, or thresholds that exceed the tolerance before any
            training.
    """

    def __init__(
        self,
        model: nn.Module,
        bounds: Mapping[Site, Tensor],
        data: Data,
        options: TrainedOptions,
    ) -> None:
        self.options = options
        self.context = DistributedContext.current()
        bounds = self.context.broadcast(lambda: dict(bounds))
        self.sites = list(bounds)
        chosen = _subset(data.train, options.samples)
        self._images, self._validation_images = len(chosen), len(data.validation)
        if min(self._images, self._validation_images) < self.context.world_size:
            raise ValueError(
                f"each of the {self.context.world_size} processes needs a training and a "
                f"validation image, got {self._images} and {self._validation_images} images in all"
            )
        self.train, self.validation = self._shard(chosen), self._shard(data.validation)
        unclipped = model.eval().requires_grad_(False)
        soft = clips_at(bounds, "soft", options.slope)
        self.model = place_at_sites(copy_sharing_parameters(unclipped), soft)
        _prefer_channels_last((unclipped, self.model), self.train.images[:1])
        self.teacher = logits(unclipped, self.train.images).softmax(1)
        clean = self._accuracy([logits(unclipped, self.validation.images)])
        self.required_accuracy = clean - options.tolerance
        if options.quantile < 1.0:
            self._check_start(clean)

    def clip(self, site: Site) -> HyReLU:
        """The clip at ``site``."""
        module = self.model.get_submodule(site.name)
        assert isinstance(module, HyReLU)
        return module

    def set_threshold(self, site: Site, value: Tensor) -> None:
        """Overwrites the threshold of ``site``."""
        self.clip(site).threshold.data.copy_(value)

    def deployed_clips(self) -> Clips:
        """New clips with the current thresholds, in the mode that is deployed."""
        thresholds = {site: self.clip(site).threshold for site in self.sites}
        return clips_at(thresholds, self.options.mode, self.options.slope)

    def expected_seconds(self, trainings: int) -> dict[Site, float]:
        """The time that each site takes if its threshold is trained ``trainings`` times.

        It follows from the time that one batch takes to reach the site and to go on from it, where
        forward and backward count as three forward passes.
        """
        reached: dict[Site, float] = {}

        def note_time(site: Site) -> Callable[..., None]:
            def hook(*_: object) -> None:
                reached[site] = time.perf_counter()

            return hook

        batch = self.train.images[: self.options.batch]
        with torch.no_grad(), ExitStack() as hooks:
            for site in self.sites:
                hooks.callback(self.clip(site).register_forward_pre_hook(note_time(site)).remove)
            for _ in range(2):  # the first pass warms up
                start = time.perf_counter()
                self.model(batch)
                end = time.perf_counter()
        evaluated = 2 * len(self.validation)
        to_site = len(self.train) + evaluated
        from_site = trainings * self.options.epochs * (3 * len(self.train) + evaluated)
        return {
            site: (to_site * (when - start) + from_site * (end - when)) / len(batch)
            for site, when in reached.items()
        }

    @cached_property
    def traced(self) -> TracedModel:
        """The clipped model, traced once for all sites."""
        return TracedModel(self.model, self.train.images[:2])

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimiser steps in one pass over the training images."""
        return -(-self._images // self.options.batch)

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Index batches of one pass over the training images, in an order drawn by ``generator``.

        The indices are those of all processes together.
        """
        yield from torch.randperm(self._images, generator=generator).split(self.options.batch)

    def gradient(
        self, forward: PrefixCache, thresholds: Sequence[Tensor], batch: Tensor, loss: Loss
    ) -> list[Tensor]:
        """The gradient of the mean loss over ``batch`` for each threshold, over all processes."""
        own = self.context.shard_indices(batch)
        parts = [torch.zeros_like(threshold) for threshold in thresholds]
        if len(own):
            for threshold in thresholds:
                threshold.requires_grad_(True)
            output = forward.outputs_at(own)
            total = loss(output, self.train.labels[own], self.teacher[own]) / len(batch)
            if total.requires_grad:
                found = torch.autograd.grad(total, thresholds, allow_unused=True)
                parts = [p if g is None else g for p, g in zip(parts, found, strict=True)]
            for threshold in thresholds:
                threshold.requires_grad_(False)
        return [self.context.all_reduce_sum(part) for part in parts]

    def has_gradient(self, forward: PrefixCache, threshold: Tensor) -> bool:
        """Whether autograd finds a path from the logits back to ``threshold``."""
        threshold.requires_grad_(True)
        output = forward.outputs_at(torch.arange(1))
        found = None
        if output.requires_grad:
            (found,) = torch.autograd.grad(output.sum(), threshold, allow_unused=True)
        threshold.requires_grad_(False)
        return found is not None

    def accuracy(self, forward: PrefixCache) -> float:
        """The accuracy on all validation images, in [0, 1], over all processes."""
        with torch.no_grad():
            return self._accuracy(forward.outputs())

    @contextmanager
    def in_mode(self, mode: str) -> Iterator[None]:
        """Switches all clips to ``mode`` inside the block, and back to soft behind it."""
        clips = [module for module in self.model.modules() if isinstance(module, HyReLU)]
        for clip in clips:
            clip.mode = mode
        try:
            yield
        finally:
            for clip in clips:
                clip.mode = "soft"

    def _check_start(self, clean: float) -> None:
        forward = PrefixCache(self.model, None, self.validation.images, MemoryBudget(0))
        with self.in_mode(self.options.mode):
            kept = self.accuracy(forward)
        if kept < self.required_accuracy:
            raise ValueError(
                f"quantile {self.options.quantile:g} lowers the validation accuracy from "
                f"{clean:.4f} to {kept:.4f} before any training, more than the tolerance of "
                f"{self.options.tolerance:g}: use a higher quantile"
            )

    def _accuracy(self, outputs: Iterable[Tensor]) -> float:
        predicted = torch.cat([output.argmax(1) for output in outputs])
        correct = (predicted == self.validation.labels).sum()
        return int(self.context.all_reduce_sum(correct)) / self._validation_images

    def _shard(self, split: Split) -> Split:
        if self.context.world_size == 1:
            return split
        return Split(self.context.shard(split.images), self.context.shard(split.labels))


def wide_copy(threshold: Tensor) -> Tensor:
    """A detached copy in float32 or wider: Adam's squared gradients underflow in float16."""
    wide = torch.promote_types(threshold.dtype, torch.float32)
    return threshold.detach().to(wide, copy=True)


def _prefer_channels_last(models: Sequence[nn.Module], image: Tensor) -> None:
    """Puts convolution weights into the channels-last order, which is faster on CPUs.

    Activations follow the weights. Nothing changes if one of the models runs only on activations
    in the usual order.
    """
    weights = [
        tensor
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dim() == 4
    ]
    if image.dim() != 4 or not weights:
        return
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            for model in models:
                model(image.contiguous(memory_format=torch.channels_last))
                model(image)
    except RuntimeError:
        for weight in weights:
            weight.data = weight.data.contiguous()


def _subset(split: Split, samples: int | None) -> Split:
    """At most ``samples`` images, the same share of every class as far as possible."""
    if samples is None or samples >= len(split):
        return split
    chosen, _ = stratified_parts(split.labels, (samples / len(split),), seed=0)
    if not 0 < len(chosen) <= samples:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(split), generator=generator)[:samples]
    return split.take(chosen)
