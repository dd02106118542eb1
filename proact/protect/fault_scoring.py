"""Score candidate thresholds by accuracy under faults; all candidates meet the same faults."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.encodings import Encoding
from proact.faults import Fault, Injector, encode
from proact.nn import Site
from proact.nn.batches import cloned, take, tensors_in
from proact.nn.graph_cut import GraphCut, TracedModel
from proact.nn.prefix_cache import MemoryBudget, PrefixCache, can_be_cut
from proact.nn.stored_memory import StoredReads
from proact.nn.tensor_inventory import stored_tensors
from proact.nn.written_state import restored
from proact.ops.seeds import derived_seed
from proact.protect.distributed import DistributedContext
from proact.protect.objective import CLASSES, Objective

_BATCH = 512  # images of a forward pass without faults


class FaultScorer:
    """A copy of a model, stored in an encoding, whose thresholds can be exchanged and scored.

    Args:
        model: with clips in the mode that is deployed; untouched.
        encoding: the stored form that faults hit.
        images: validation images with targets. Each pattern draws ``images_per_pattern`` of them.
        patterns: the number of fault patterns; processes divide them among themselves.
        images_per_pattern: the number of images that run under each pattern.
        seed: determines patterns and drawn images, in [0, 2^63). A campaign of the same seed meets
            other patterns, so thresholds are not evaluated on the faults that selected them.
        objective: runs the model and judges its outputs.
        cache_bytes: memory for the activations that `continued_at` keeps.

    Attributes:
        model: the encoded copy, in eval mode.
    """

    def __init__(
        self,
        model: nn.Module,
        encoding: Encoding,
        images: Split,
        patterns: int,
        images_per_pattern: int,
        seed: int,
        objective: Objective = CLASSES,
        cache_bytes: int = 0,
    ) -> None:
        self._objective, self._cache_bytes = objective, cache_bytes
        self.model = encode(model, encoding).eval()
        self._encoding, self._seed = encoding, search_seed(seed)
        self._injector = Injector(self.model, encoding)
        self._stored = {stored.name: stored for stored in stored_tensors(self.model)}
        self._context = DistributedContext.current()
        self._images = images
        self._patterns, self._images_per_pattern = patterns, min(images_per_pattern, len(images))
        #: By pattern: the values of its images without faults, and its prefix cache.
        self._clean: dict[int, Tensor] = {}
        self._caches: dict[int, PrefixCache] = {}

    def set_threshold(self, site: Site, value: Tensor) -> None:
        """Stores ``value``, rounded to the encoding, as the threshold of ``site``."""
        self._clean.clear()
        stored = self._stored[f"{site.name}.threshold"]
        with torch.no_grad():
            stored.tensor.copy_(value)
            stored.tensor.copy_(self._encoding.word(stored).rounded(stored.tensor))

    def accuracy(self, fault: Fault) -> float:
        """The mean of the objective's metric (top-1 accuracy) over the patterns, in [0, 1].

        An output that contains NaN or infinity counts as wrong. A pattern that changes no stored
        number runs once for each set of thresholds, at whatever rate it comes up.
        """
        total = torch.zeros((), dtype=torch.float64)
        for trial in self._own_patterns:
            values = self._changed_values(fault, trial)
            if values is None:
                if trial not in self._clean:
                    self._clean[trial] = self._judged_pattern(trial)
                values = self._clean[trial]
            total += values.sum()
        shared = self._context.all_reduce_sum(total)
        return float(shared) / (self._patterns * self._images_per_pattern)

    @contextmanager
    def continued_at(self, site: Site, tensors: Collection[str]) -> Iterator[None]:
        """Lets `accuracy` continue at the first layer that faults hit, until the block ends.

        The activations before this layer are kept for the images of as many patterns as fit into
        ``cache_bytes``. A model that cannot be cut there runs whole. The accuracies are the same.

        Args:
            site: the only one whose threshold may change in the block.
            tensors: the names of the tensors that faults hit, those of the first layer first.
        """
        cut = None
        if self._traced is not None:
            first = next(iter(tensors)).rpartition(".")[0]
            cut = self._traced.cut_at(self.model.get_submodule(first))
        if cut is not None:
            names = {*tensors, f"{site.name}.threshold"}
            stored = self._stored.values()
            changed = {each.name for each in stored if not names.isdisjoint(each.names)}
            if StoredReads(self.model).of(cut.before).isdisjoint(changed):
                self._fill(cut)
        try:
            yield
        finally:
            self._caches.clear()

    def _fill(self, cut: GraphCut) -> None:
        budget = MemoryBudget(self._cache_bytes)
        for trial in self._own_patterns:
            inputs = self._images.take(self._drawn_images(trial)).inputs
            if not budget.reserve(sum(tensor.nbytes for tensor in tensors_in(inputs))):
                break
            cache = PrefixCache(
                self.model, cut, inputs, budget,
                batch=self._images_per_pattern, forward=self._objective.forward,
            )  # fmt: skip
            cache.fill()
            if not cache.bytes:
                break
            self._caches[trial] = cache

    @cached_property
    def _traced(self) -> TracedModel | None:
        if not can_be_cut(self.model):
            return None
        some = take(self._images.inputs, slice(0, 2))
        return TracedModel(self.model, some, self._objective.forward)

    @property
    def _own_patterns(self) -> range:
        """The patterns of this process."""
        return range(self._context.rank, self._patterns, self._context.world_size)

    def clean_values(self) -> Tensor:
        """The metric of each image without faults, (images,) float64."""
        with torch.no_grad():
            parts = [self._judged(Split(*batch)) for batch in self._images.batches(_BATCH)]
        return torch.cat(parts)

    def trial(self, fault: Fault, trial: int, clean: Tensor) -> tuple[float, float]:
        """The mean metric under one fault pattern, and without faults on the same images.

        A pattern that changes no stored number, because the code corrects all of its flips, is not
        run.

        Args:
            fault: the fault.
            trial: the number of the pattern.
            clean: as `clean_values` returns them.
        """
        before = clean[self._drawn_images(trial)]
        values = self._changed_values(fault, trial)
        return float((before if values is None else values).mean()), float(before.mean())

    def _changed_values(self, fault: Fault, trial: int) -> Tensor | None:
        """The metric of each image of a pattern under its faults, float64.

        None if the pattern changes no stored number.
        """
        with self._injector.trial(fault, self._seed, trial) as record:
            return self._judged_pattern(trial) if record.changed else None

    def _judged_pattern(self, trial: int) -> Tensor:
        images = self._images.take(self._drawn_images(trial))
        with torch.no_grad():
            return self._judged(images, self._caches.get(trial))

    def _judged(self, images: Split, cache: PrefixCache | None = None) -> Tensor:
        # State that faults leave behind must not reach the next trial.
        with restored(self.model):
            if cache is None:
                output = self._objective.forward.logits(self.model, cloned(images.inputs))
            else:
                (output,) = cache.outputs()
            values = self._objective.values(output, images.targets)
            is_finite = torch.isfinite(output).flatten(1).all(1)
            return torch.where(is_finite, values, 0.0)

    def _drawn_images(self, trial: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "search-images", trial))
        return torch.randperm(len(self._images), generator=generator)[: self._images_per_pattern]


def search_seed(seed: int) -> int:
    """The seed of the fault patterns of a threshold search; campaigns of ``seed`` meet others."""
    return derived_seed(seed, "search")
