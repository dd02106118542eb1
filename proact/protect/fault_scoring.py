"""How accurate candidates for a threshold are under faults: each meets the same ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.encodings import Encoding
from proact.faults import Fault, Injector, encode
from proact.nn import Site
from proact.nn.outputs import logits_of
from proact.nn.tensor_inventory import stored_tensors
from proact.ops.seeds import derived_seed
from proact.protect.distributed import Ranks


class UnderFaults:
    """A copy of ``network`` in the encoding, whose thresholds can be exchanged.

    Args:
        network: as it is to be deployed.
        images: what is judged on, ``images_per_pattern`` of them a pattern, drawn anew for each.
        patterns: how many fault patterns; processes share them out.
        seed: of patterns and draws. A campaign of the same seed meets other ones: what is chosen on
            some faults must not be judged on them.
    """

    def __init__(
        self,
        network: nn.Module,
        encoding: Encoding,
        images: Split,
        patterns: int,
        images_per_pattern: int,
        seed: int,
    ) -> None:
        self.network = encode(network, encoding).eval()
        self._encoding, self._seed = encoding, search_seed(seed)
        self._injector = Injector(self.network, encoding)
        self._stored = {stored.name: stored for stored in stored_tensors(self.network)}
        self._ranks = Ranks.current()
        self._images = images
        self._patterns, self._images_per_pattern = patterns, min(images_per_pattern, len(images))

    def set_threshold(self, site: Site, value: Tensor) -> None:
        """Stores ``value``, rounded to the encoding."""
        stored = self._stored[f"{site.name}.threshold"]
        with torch.no_grad():
            stored.tensor.copy_(value)
            stored.tensor.copy_(self._encoding.word(stored).rounded(stored.tensor))

    def accuracy(self, fault: Fault) -> float:
        """The mean over the patterns, in [0, 1]; an output with NaN or infinity is wrong."""
        correct = torch.zeros((), dtype=torch.int64)
        for trial in range(self._ranks.rank, self._patterns, self._ranks.world):
            chosen = self._drawn(trial)
            with self._injector.trial(fault, self._seed, trial), torch.no_grad():
                output = logits_of(self.network(self._images.images[chosen]))
            right = output.argmax(1) == self._images.labels[chosen]
            correct += (right & torch.isfinite(output).all(1)).sum()
        return int(self._ranks.summed(correct)) / (self._patterns * self._images_per_pattern)

    def _drawn(self, trial: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "search-images", trial))
        return torch.randperm(len(self._images), generator=generator)[: self._images_per_pattern]


def search_seed(seed: int) -> int:
    """The seed of the fault patterns of a threshold search; campaigns of ``seed`` meet others."""
    return derived_seed(seed, "search")
