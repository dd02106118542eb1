"""The clipped network while its thresholds are trained, and how it is judged."""

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
from proact.protect.distributed import Ranks
from proact.protect.options import TrainedOptions

#: Of outputs, labels and the unclipped network's probabilities; summed over the images.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Student:
    """A copy of ``model`` with a soft clip at every site, in which nothing but thresholds moves,
    beside the unclipped network's answers.

    Batch norm and dropout stay in eval mode, and no weight takes part in autograd.

    Args:
        model: a working copy. Its weights are shared, put into another order in memory, and do not
            require grad any more.
        bounds: a threshold for each site, to start from.

    Attributes:
        teacher: the unclipped network's probabilities for this process's training images.
        least: the validation accuracy that the tolerance leaves.
    """

    def __init__(
        self,
        model: nn.Module,
        bounds: Mapping[Site, Tensor],
        data: Data,
        options: TrainedOptions,
    ) -> None:
        self.options = options
        self.ranks = Ranks.current()
        bounds = self.ranks.from_first(lambda: dict(bounds))
        self.sites = list(bounds)
        chosen = _few(data.train, options.samples)
        self._images, self._validation_images = len(chosen), len(data.validation)
        if min(self._images, self._validation_images) < self.ranks.world:
            raise ValueError(
                f"{self.ranks.world} processes need an image each, and there are {self._images} "
                f"for training and {self._validation_images} for validation"
            )
        self.train, self.validation = self._own(chosen), self._own(data.validation)
        unclipped = model.eval().requires_grad_(False)
        soft = clips_at(bounds, "soft", options.slope)
        self.network = place_at_sites(copy_sharing_parameters(unclipped), soft)
        _prefer_channels_last((unclipped, self.network), self.train.images[:1])
        self.teacher = logits(unclipped, self.train.images).softmax(1)
        clean = self._accuracy([logits(unclipped, self.validation.images)])
        self.least = clean - options.tolerance
        if options.quantile < 1.0:
            self._check_start(clean)

    def clip(self, site: Site) -> HyReLU:
        """What clips at ``site``."""
        module = self.network.get_submodule(site.name)
        assert isinstance(module, HyReLU)
        return module

    def set_threshold(self, site: Site, value: Tensor) -> None:
        self.clip(site).threshold.data.copy_(value)

    def deployed(self) -> Clips:
        """Clips with the thresholds as they are now, in the form to be deployed."""
        thresholds = {site: self.clip(site).threshold for site in self.sites}
        return clips_at(thresholds, self.options.mode, self.options.slope)

    def expected_seconds(self, trainings: int) -> dict[Site, float]:
        """What each site will take with so many trainings of its threshold, from the time that one
        batch takes to the site and from there: forward and backward are taken for three forwards.
        """
        reached: dict[Site, float] = {}

        def reach(site: Site) -> Callable[..., None]:
            def hook(*_: object) -> None:
                reached[site] = time.perf_counter()

            return hook

        batch = self.train.images[: self.options.batch]
        with torch.no_grad(), ExitStack() as hooks:
            for site in self.sites:
                hooks.callback(self.clip(site).register_forward_pre_hook(reach(site)).remove)
            for _ in range(2):  # the first warms up
                start = time.perf_counter()
                self.network(batch)
                end = time.perf_counter()
        judged = 2 * len(self.validation)
        to_site = len(self.train) + judged
        behind = trainings * self.options.epochs * (3 * len(self.train) + judged)
        return {
            site: (to_site * (when - start) + behind * (end - when)) / len(batch)
            for site, when in reached.items()
        }

    @cached_property
    def traced(self) -> TracedModel:
        """The network, traced once for all sites."""
        return TracedModel(self.network)

    @property
    def steps(self) -> int:
        """Of one pass over the training images."""
        return -(-self._images // self.options.batch)

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Indices of one pass over the training images, in an order that the generator draws."""
        yield from torch.randperm(self._images, generator=generator).split(self.options.batch)

    def gradient(
        self, forward: PrefixCache, thresholds: Sequence[Tensor], batch: Tensor, loss: Loss
    ) -> list[Tensor]:
        """Of the mean loss over the batch, in the thresholds; over all processes."""
        own = self.ranks.own(batch)
        parts = [torch.zeros_like(threshold) for threshold in thresholds]
        if len(own):
            for threshold in thresholds:
                threshold.requires_grad_(True)
            total = loss(forward.outputs_at(own), self.train.labels[own], self.teacher[own]) / len(
                batch
            )
            if total.requires_grad:
                found = torch.autograd.grad(total, thresholds, allow_unused=True)
                parts = [p if g is None else g for p, g in zip(parts, found, strict=True)]
            for threshold in thresholds:
                threshold.requires_grad_(False)
        return [self.ranks.summed(part) for part in parts]

    def decides(self, forward: PrefixCache, threshold: Tensor) -> bool:
        """Whether autograd finds a way from the logits back to ``threshold``."""
        threshold.requires_grad_(True)
        output = forward.outputs_at(torch.arange(1))
        found = None
        if output.requires_grad:
            (found,) = torch.autograd.grad(output.sum(), threshold, allow_unused=True)
        threshold.requires_grad_(False)
        return found is not None

    def accuracy(self, forward: PrefixCache) -> float:
        """Of the validation images, in [0, 1]; over all processes."""
        with torch.no_grad():
            return self._accuracy(forward.outputs())

    @contextmanager
    def in_mode(self, mode: str) -> Iterator[None]:
        """All clips in that mode inside, soft outside."""
        own = [module for module in self.network.modules() if isinstance(module, HyReLU)]
        for clip in own:
            clip.mode = mode
        try:
            yield
        finally:
            for clip in own:
                clip.mode = "soft"

    def _check_start(self, clean: float) -> None:
        forward = PrefixCache(self.network, None, self.validation.images, MemoryBudget(0))
        with self.in_mode(self.options.mode):
            kept = self.accuracy(forward)
        if kept < self.least:
            raise ValueError(
                f"at the quantile {self.options.quantile:g}, before any training, {kept:.4f} of "
                f"validation is right, of {clean:.4f} without clips: more than the tolerance of "
                f"{self.options.tolerance:g} is lost; take a higher quantile"
            )

    def _accuracy(self, outputs: Iterable[Tensor]) -> float:
        answers = torch.cat([output.argmax(1) for output in outputs])
        correct = (answers == self.validation.labels).sum()
        return int(self.ranks.summed(correct)) / self._validation_images

    def _own(self, split: Split) -> Split:
        if self.ranks.world == 1:
            return split
        return Split(self.ranks.share(split.images), self.ranks.share(split.labels))


class _Judged:
    """A student that is trained on images, and judged in the soft form and in the deployed one."""

    train: PrefixCache
    _student: Student
    _soft: PrefixCache
    _deployed: PrefixCache

    def accuracy(self) -> float:
        """The lower of the validation accuracies in the soft and in the deployed form: where
        activations are small against 1/slope, a soft threshold can shrink unpunished and cut
        everything once it is hard."""
        soft = self._student.accuracy(self._soft)
        mode = self._student.options.mode
        if mode == "soft":
            return soft
        with self._student.in_mode(mode):
            return min(soft, self._student.accuracy(self._deployed))


class Whole(_Judged):
    """The whole student, where all of its thresholds move."""

    def __init__(self, student: Student) -> None:
        self._student = student
        nothing = MemoryBudget(0)
        self.train = PrefixCache(student.network, None, student.train.images, nothing)
        self._soft = PrefixCache(student.network, None, student.validation.images, nothing)
        self._deployed = self._soft


class FromSite(_Judged):
    """A student from one site on, whose thresholds before the site do not move.

    Args:
        budget: pays for what is kept of the way to the site.

    Attributes:
        is_cut: whether the network could be cut there; else it runs whole in each step.
    """

    def __init__(self, student: Student, site: Site, budget: MemoryBudget) -> None:
        self._student = student
        examples = student.train.images[:2]
        cut = student.traced.cut_at(student.clip(site), examples)
        self.is_cut = cut is not None
        network, mode = student.network, student.options.mode
        self.train = PrefixCache(network, cut, student.train.images, budget, fold=True)
        self._soft = PrefixCache(network, cut, student.validation.images, budget)
        with student.in_mode(mode):
            self._deployed = PrefixCache(network, cut, student.validation.images, budget)

    def close(self) -> None:
        """Frees what leads to the site."""
        for cache in (self.train, self._soft, self._deployed):
            cache.close()


def wide_copy(threshold: Tensor) -> Tensor:
    """In float32 at least: halves have no room for Adam's squares."""
    wide = torch.promote_types(threshold.dtype, torch.float32)
    return threshold.detach().to(wide, copy=True)


def _prefer_channels_last(networks: Sequence[nn.Module], image: Tensor) -> None:
    """Puts convolutions' weights into the channels-last order, which is faster on CPUs.

    Activations follow the weights. Nothing changes if one of the models runs only on activations
    in the usual order.
    """
    weights = [
        tensor
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
        if tensor.dim() == 4
    ]
    if image.dim() != 4 or not weights:
        return
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            for network in networks:
                network(image.contiguous(memory_format=torch.channels_last))
                network(image)
    except RuntimeError:
        for weight in weights:
            weight.data = weight.data.contiguous()


def _few(split: Split, samples: int | None) -> Split:
    """The same share of every class, as far as that goes."""
    if samples is None or samples >= len(split):
        return split
    chosen, _ = stratified_parts(split.labels, (samples / len(split),), seed=0)
    if not 0 < len(chosen) <= samples:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(split), generator=generator)[:samples]
    return split.take(chosen)
