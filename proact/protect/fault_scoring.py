"""Score candidate thresholds by accuracy under faults; all candidates meet the same faults."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.encodings import Encoding
from proact.faults import Fault, Injector, encode
from proact.nn import Site
from proact.nn.batches import cloned
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
    ) -> None:
        self._objective = objective
        self.model = encode(model, encoding).eval()
        self._encoding, self._seed = encoding, search_seed(seed)
        self._injector = Injector(self.model, encoding)
        self._stored = {stored.name: stored for stored in stored_tensors(self.model)}
        self._context = DistributedContext.current()
        self._images = images
        self._patterns, self._images_per_pattern = patterns, min(images_per_pattern, len(images))

    def set_threshold(self, site: Site, value: Tensor) -> None:
        """Stores ``value``, rounded to the encoding, as the threshold of ``site``."""
        stored = self._stored[f"{site.name}.threshold"]
        with torch.no_grad():
            stored.tensor.copy_(value)
            stored.tensor.copy_(self._encoding.word(stored).rounded(stored.tensor))

    def accuracy(self, fault: Fault) -> float:
        """The mean of the objective's metric (top-1 accuracy) over the patterns, in [0, 1].

        An output that contains NaN or infinity counts as wrong.
        """
        total = torch.zeros((), dtype=torch.float64)
        for trial in range(self._context.rank, self._patterns, self._context.world_size):
            total += self._values(self._images.take(self._drawn_images(trial)), fault, trial).sum()
        shared = self._context.all_reduce_sum(total)
        return float(shared) / (self._patterns * self._images_per_pattern)

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
        drawn = self._drawn_images(trial)
        before = clean[drawn]
        values = self._values(self._images.take(drawn), fault, trial, before)
        return float(values.mean()), float(before.mean())

    def _values(
        self, drawn: Split, fault: Fault, trial: int, if_unchanged: Tensor | None = None
    ) -> Tensor:
        """The metric of each of the images under a fault pattern, float64.

        ``if_unchanged`` is returned if the pattern changes no stored number.
        """
        with self._injector.trial(fault, self._seed, trial) as record, torch.no_grad():
            if if_unchanged is not None and not record.changed:
                return if_unchanged
            return self._judged(drawn)

    def _judged(self, images: Split) -> Tensor:
        # State that faults leave behind must not reach the next trial.
        with restored(self.model):
            output = self._objective.forward.logits(self.model, cloned(images.inputs))
            values = self._objective.values(output, images.targets)
            is_finite = torch.isfinite(output).flatten(1).all(1)
            return torch.where(is_finite, values, 0.0)

    def _drawn_images(self, trial: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "search-images", trial))
        return torch.randperm(len(self._images), generator=generator)[: self._images_per_pattern]


def search_seed(seed: int) -> int:
    """The seed of the fault patterns of a threshold search; campaigns of ``seed`` meet others."""
    return derived_seed(seed, "search")
