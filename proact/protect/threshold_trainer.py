"""Train the thresholds of a clipped model, and evaluate it on validation images."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from proact.data import Data, Split
from proact.data.dataset import stratified_subset
from proact.models.evaluation import examples
from proact.nn import HyReLU, Site
from proact.nn.batches import Batch, cloned, samples_in, split_batch, take
from proact.nn.graph_cut import TracedModel
from proact.nn.memory_order import prefer_channels_last
from proact.nn.module_copy import copy_sharing_parameters
from proact.nn.prefix_cache import MemoryBudget, PrefixCache
from proact.nn.sites import place_at_sites
from proact.protect.clips import Clips, clips_at
from proact.protect.distributed import DistributedContext
from proact.protect.objective import CLASSES, Objective
from proact.protect.options import TrainedOptions
from proact.protect.teacher import Teacher
from proact.protect.tolerance import ToleranceTest, Verdict

#: A loss, summed over the samples, of logits, targets and the unclipped model's probabilities in
#: the shape of the logits (None where they are not defined).
TrainingLoss = Callable[[Tensor, Batch, Tensor | None], Tensor]

_EVALUATED = 512  # samples that the unclipped model evaluates at a time
_TABULATED = 8  # batches


class ThresholdTrainer:
    """A model with a soft clip at every site, whose thresholds alone are trained.

    Batch norm and dropout stay in eval mode, and no weight requires grad.

    Args:
        model: a working copy. The clipped model shares its weights, which the trainer puts into
            the channels-last order and excludes from autograd.
        bounds: the threshold of each site to start from, in execution order.
        data: training and validation samples are used, test samples are not.
        options: of the method.
        objective: runs the model and judges its outputs.

    Attributes:
        model: the clipped model, in soft mode.
        sites: the sites, in execution order.
        train, validation: the samples of this process, in an order that the seed determines.
        teacher: the unclipped model's probabilities for ``train``.
        tolerance: judges thresholds by the validation samples.

    Raises:
        ValueError: fewer images than processes; thresholds that exceed the tolerance before any
            training; a loss that depends on no threshold.
    """

    def __init__(
        self,
        model: nn.Module,
        bounds: Mapping[Site, Tensor],
        data: Data,
        options: TrainedOptions,
        objective: Objective = CLASSES,
    ) -> None:
        self.options, self.objective = options, objective
        self.context = DistributedContext.current()
        bounds = self.context.broadcast(lambda: dict(bounds))
        self.sites = list(bounds)
        chosen = _chosen(data.train, options.samples, options.seed)
        judging = _chosen(data.validation, options.validation_samples, options.seed)
        self._samples = len(chosen)
        if min(len(chosen), len(judging)) < self.context.world_size:
            raise ValueError(
                f"each of the {self.context.world_size} processes needs a training and a "
                f"validation image, got {len(chosen)} and {len(judging)} images in all"
            )
        self.train = data.train.take(self.context.shard(chosen))
        self.validation = data.validation.take(self.context.shard(judging))
        unclipped = model.eval().requires_grad_(False)
        soft = clips_at(bounds, "soft", options.slope)
        self.model = place_at_sites(copy_sharing_parameters(unclipped), soft)
        prefer_channels_last((unclipped, self.model), examples(self.train), objective.forward)
        self.teacher = Teacher(unclipped, self.train, objective)
        with torch.no_grad():
            parts = split_batch(self.validation.inputs, _EVALUATED)
            outputs = (objective.forward.logits(unclipped, cloned(part)) for part in parts)
            clean = torch.cat([values.cpu() for values in self._values(outputs)])
        self.tolerance = ToleranceTest(clean, options.tolerance, self.context)
        self._check_loss()
        if not self.tolerance.can_accept:
            self._warn_of_few_samples()
        elif options.quantile < 1.0:
            self._check_start()

    def loss(self, output: Tensor, targets: Batch, teacher: Tensor | None) -> Tensor:
        """The objective's loss alone, summed over the samples."""
        return self.objective.losses(output, targets)

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

    def expected_seconds(self, decays: int) -> dict[Site, float]:
        """The time that each site takes if ``decays`` are tried there.

        It follows from the time that one batch takes to reach the site and to go on from it, where
        forward and backward count as three forward passes. A scalar threshold is assumed to need
        its gradients at four places.
        """
        reached: dict[Site, float] = {}

        def note_time(site: Site) -> Callable[..., None]:
            def hook(*_: object) -> None:
                reached[site] = time.perf_counter()

            return hook

        batch = take(self.train.inputs, slice(0, self.options.batch))
        with torch.no_grad(), ExitStack() as hooks:
            for site in self.sites:
                hooks.callback(self.clip(site).register_forward_pre_hook(note_time(site)).remove)
            for _ in range(2):  # the first pass warms up
                start = time.perf_counter()
                self.objective.forward(self.model, cloned(batch))
                end = time.perf_counter()
        expected = {}
        for site, when in reached.items():
            reaching = len(self.tabulated) * self.options.batch
            steps = 4 * reaching
            if self.clip(site).threshold.numel() > 1:
                reaching = len(self.train)
                steps = decays * self.options.epochs * len(self.train)
            to_site = reaching + len(self.validation)
            from_site = 3 * steps + decays * len(self.validation)
            seconds = to_site * (when - start) + from_site * (end - when)
            expected[site] = seconds / samples_in(batch)
        return expected

    @cached_property
    def traced(self) -> TracedModel:
        """The clipped model, traced once for all sites, with folded batch norms."""
        return TracedModel(self.model, examples(self.train), self.objective.forward, fold=True)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimiser steps in one pass over the training images."""
        return -(-self._samples // self.options.batch)

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Index batches of one pass over the training images, in an order drawn by ``generator``.

        The indices are those of all processes together.
        """
        yield from torch.randperm(self._samples, generator=generator).split(self.options.batch)

    @property
    def tabulated(self) -> list[Tensor]:
        """Index batches of the first training images, whose gradients a table holds.

        They are `_TABULATED` full batches, or as many as there are.
        """
        size = self.options.batch
        count = min(_TABULATED, self._samples // size)
        return list(torch.arange(count * size).split(size)) if count else []

    def gradient(
        self, forward: PrefixCache, thresholds: Sequence[Tensor], batch: Tensor, loss: TrainingLoss
    ) -> list[Tensor]:
        """The gradient of the mean loss over ``batch`` for each threshold, over all processes."""
        own = self.context.shard_indices(batch)
        parts = [torch.zeros_like(threshold) for threshold in thresholds]
        if len(own):
            for threshold in thresholds:
                threshold.requires_grad_(True)
            output = forward.outputs_at(own)
            targets = take(self.train.targets, own)
            total = loss(output, targets, self.teacher.probabilities(own)) / len(batch)
            if total.requires_grad:
                found = torch.autograd.grad(total, thresholds, allow_unused=True)
                parts = [p if g is None else g for p, g in zip(parts, found, strict=True)]
            for threshold in thresholds:
                threshold.requires_grad_(False)
        return [self.context.all_reduce_sum(part) for part in parts]

    def has_gradient(self, forward: PrefixCache, threshold: Tensor) -> bool:
        """Whether autograd finds a path from the logits back to ``threshold``."""
        threshold.requires_grad_(True)
        output = forward.outputs_at(torch.arange(min(2, len(self.train))))
        found = None
        if output.requires_grad:
            (found,) = torch.autograd.grad(output.sum(), threshold, allow_unused=True)
        threshold.requires_grad_(False)
        return found is not None

    def judge(self, forward: PrefixCache) -> Verdict:
        """Whether the current thresholds stay within the tolerance, in the mode that is deployed.

        Args:
            forward: gives the outputs for the validation samples.
        """
        with self.in_mode(self.options.mode), torch.no_grad():
            return self.tolerance.judge(self._values(forward.outputs()))

    def set_reference(self, forward: PrefixCache) -> None:
        """Makes the current thresholds the reference of `judge`; ``forward`` is as there."""
        with self.in_mode(self.options.mode), torch.no_grad():
            self.tolerance.set_reference(self.tolerance.drops(self._values(forward.outputs())))

    @contextmanager
    def in_mode(self, mode: str) -> Iterator[None]:
        """Switches the clips at all sites to ``mode`` inside the block, and back to soft behind it.

        Clips of an earlier method that ``skip`` leaves alone keep their mode.
        """
        clips = [self.clip(site) for site in self.sites]
        for clip in clips:
            clip.mode = mode
        try:
            yield
        finally:
            for clip in clips:
                clip.mode = "soft"

    def _check_loss(self) -> None:
        """Raises ValueError if no threshold influences the loss."""
        thresholds = [self.clip(site).threshold for site in self.sites]
        for threshold in thresholds:
            threshold.requires_grad_(True)
        indices = torch.arange(min(2, len(self.train)))
        output = self.objective.forward.logits(self.model, cloned(take(self.train.inputs, indices)))
        loss = self.objective.losses(output, take(self.train.targets, indices))
        found: Sequence[Tensor | None] = [None]
        if loss.requires_grad:
            found = torch.autograd.grad(loss, thresholds, allow_unused=True)
        for threshold in thresholds:
            threshold.requires_grad_(False)
        if all(gradient is None for gradient in found):
            raise ValueError(
                f"the loss does not depend on any threshold of {type(self.model).__name__}: the "
                "loss has to be computed from the logits that it gets, and the model has to run "
                "without torch.no_grad or detach behind an activation"
            )

    def _warn_of_few_samples(self) -> None:
        if self.context.is_first:
            warnings.warn(
                f"{self.tolerance.samples} validation samples cannot show that a drop is within "
                f"the tolerance of {self.options.tolerance:g}, so no threshold is trained: give "
                "more samples, raise validation_samples, or raise the tolerance",
                stacklevel=4,
            )

    def _check_start(self) -> None:
        nothing, forward = MemoryBudget(0), self.objective.forward
        whole = PrefixCache(self.model, None, self.validation.inputs, nothing, forward=forward)
        verdict = self.judge(whole)
        if not verdict.accepted:
            raise ValueError(
                f"quantile {self.options.quantile:g} lowers the validation accuracy to "
                f"{verdict.kept:.4f} before any training, more than the tolerance of "
                f"{self.options.tolerance:g} allows: use a higher quantile"
            )

    def _values(self, outputs: Iterable[Tensor]) -> Iterator[Tensor]:
        """The metric of each validation sample, in the batches of the outputs."""
        start = 0
        for output in outputs:
            targets = take(self.validation.targets, slice(start, start + len(output)))
            yield self.objective.values(output, targets)
            start += len(output)


def wide_copy(threshold: Tensor) -> Tensor:
    """A detached copy in float32 or wider: Adam's squared gradients underflow in float16."""
    wide = torch.promote_types(threshold.dtype, torch.float32)
    return threshold.detach().to(wide, copy=True)


def _chosen(split: Split, samples: int | None, seed: int) -> Tensor:
    """The indices of at most ``samples`` samples, the same share of every class as far as possible.

    Their order is random, so that the first ones stand for all.
    """
    chosen = stratified_subset(split, len(split) if samples is None else samples)
    return chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
