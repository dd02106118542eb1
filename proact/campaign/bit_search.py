"""Progressive bit search: few flips that hurt a model most.

A. S. Rakin, Z. He, D. Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search",
arXiv 1903.12269. Each step computes the gradient of the loss under the flips so far, takes the most
harmful flip of each tensor by its first-order effect, tries these flips on the model, and keeps the
worst one. Departures: a flip is tried with what codes and guards make of it; where a code corrects
single flips, sets of flips in one codeword are tried; tensors without a gradient take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from proact.campaign.flip_effects import FlipEffects, Flips, most_harmful
from proact.campaign.sample_losses import LossGradients, SampleLoss, SampleLosses
from proact.campaign.scale_gradients import gradients_of_scales
from proact.campaign.validation import check_guards
from proact.data import Data, Split
from proact.data.dataset import SamplesOrData, as_evaluation
from proact.encodings import Bits
from proact.errors import ProactError
from proact.faults import FaultSpace, Replay, encode
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.selectors import Selector
from proact.limits import SEEDS
from proact.nn.batches import Batch
from proact.nn.forward import Forward, OutputSelector
from proact.nn.model_kinds import checked_module
from proact.nn.tensor_inventory import stored_tensors
from proact.ops.plan import checked_integer

#: Part of the identity of what a search finds; raised when a change of it finds other flips.
SEARCH_VERSION = 1
#: Steps end when no set of flips raises the mean probability of a wrong answer by this much.
_LEAST_GAIN = 1e-9
#: Or when the mean probability of a wrong answer is as good as 1.
_WORST = 1.0 - 1e-6


@dataclass(frozen=True)
class SearchOptions:
    """How `worst_case` searches.

    Attributes:
        samples: the most samples on which flips are compared.
        candidates: the most sets of flips that are tried in each step. Half of them are in tensors
            without a gradient (bounds, thresholds in zero mode), if there are any.
        seed: determines the sets of flips in codewords, in [0, 2^63).
    """

    samples: int = 128
    candidates: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "candidates"):
            if checked_integer(name, getattr(self, name), 1 << 31) == 0:
                raise ValueError(f"{name} is at least 1, got 0")
        checked_integer("seed", self.seed, SEEDS)


class Step(NamedTuple):
    """The flips after a step of the search, in the order in which they were found.

    Attributes:
        flips: of this step and of all steps before.
        harm: the mean over the samples of 1 - exp(-loss), in [0, 1].
    """

    flips: Flips
    harm: float


def worst_case(
    model: nn.Module,
    data: SamplesOrData,
    flips: int,
    encoding: EncodingLike = "float32",
    *,
    where: Selector = "*",
    bits: Bits = None,
    loss: SampleLoss | None = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    output: OutputSelector | None = None,
    options: SearchOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Replay:
    """Search for few flips of stored bits that hurt a model most (arXiv 1903.12269).

    The search is greedy and compares flips on some samples, so that other flips may be worse.

    Args:
        model: the model as it is deployed, with its clips and guards; it is not changed.
        data: the validation split of a `proact.data.Data`, or samples as for
            `proact.campaign.run`. Without targets, the predictions without faults are the targets.
        flips: the most flips, at least 1.
        encoding: the stored form of the parameters, by name or by selectors.
        where, bits: the bits that may be flipped, as for `proact.faults.BitFlip`.
        loss: a function of (logits, targets) that returns one loss of at least 0 for each sample,
            (samples,). The default is the cross-entropy of classes, averaged over the tokens or
            pixels of a sample. Flips are compared by the mean of 1 - exp(-loss), which is for
            classes the mean probability of a wrong answer; NaN counts as 1.
        forward, output: as for `proact.campaign.run`.
        options: how to search.
        progress: called with a line of text after each step.

    Returns:
        The flips as a fault: at most ``flips``, and fewer if further ones would not hurt more.

    Raises:
        ValueError: a model without gradients, outputs that need a loss of the user's, or as
            `proact.faults.FaultSpace`.
        TypeError: an argument of another type.
    """
    if checked_integer("flips", flips, 1 << 31) == 0:
        raise ValueError("flips is at least 1, got 0")
    split = data.validation if isinstance(data, Data) else as_evaluation(data)
    search = BitSearch(model, split, encoding, where, bits, loss, Forward(forward, output), options)
    found: Flips = ()
    for step in search.steps(flips):
        found = step.flips
        if progress is not None:
            progress(
                f"{len(found)} of {flips} flips: mean probability of a wrong answer {step.harm:.4f}"
            )
    return search.replay(found)


class BitSearch:
    """A search for harmful flips in one model; the arguments are those of `worst_case`."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        encoding: EncodingLike = "float32",
        where: Selector = "*",
        bits: Bits = None,
        loss: SampleLoss | None = None,
        forward: Forward | None = None,
        options: SearchOptions | None = None,
    ) -> None:
        check_guards({type(model).__name__: checked_module(model)})
        self._options = options or SearchOptions()
        self._encoding = checked_encoding(encoding)
        deployed = encode(model, self._encoding, where=where).eval()
        self._effects = FlipEffects(deployed, self._encoding)
        self._space = list(FaultSpace(deployed, self._encoding, where, bits))
        stored = [*stored_tensors(deployed), *self._effects.scales.values()]
        self._shapes = {each.name: tuple(each.tensor.shape) for each in stored}
        samples = self._options.samples
        self._losses = SampleLosses(deployed, split, samples, forward or Forward(), loss)
        self._gradients = LossGradients(deployed, self._losses)
        self._generator = torch.Generator().manual_seed(self._options.seed)

    def steps(self, flips: int) -> Iterator[Step]:
        """Add flips step by step until there are ``flips``, or none of them hurts more."""
        found: Flips = ()
        reached = self.harm(found)
        while len(found) < flips and reached < _WORST:
            best: Flips = ()
            best_gain, best_harm = _LEAST_GAIN, reached
            for candidate in self._candidates(found, flips - len(found)):
                reaches = self.harm(found + candidate)
                gain = (reaches - reached) / len(candidate)
                if gain > best_gain:
                    best, best_gain, best_harm = candidate, gain, reaches
            if best == ():
                return
            found, reached = found + best, best_harm
            yield Step(found, reached)

    def replay(self, flips: Flips) -> Replay:
        """Flips as a fault."""
        shapes = {flip.tensor: self._shapes[flip.tensor] for flip in flips}
        return Replay(flips, shapes, self._encoding.name)

    def harm(self, flips: Flips) -> float:
        """The mean over the samples of 1 - exp(-loss) while bits are flipped.

        NaN, and a forward pass that raises an error because of the flips, count as 1.
        """
        with self._effects.flipped(flips) as model:
            try:
                return self._losses.harm(model)
            except (MemoryError, torch.OutOfMemoryError, ProactError):
                raise
            except Exception:
                if not flips:
                    raise
                return 1.0

    def _candidates(self, found: Flips, left: int) -> list[Flips]:
        """The sets of at most ``left`` flips that are worth trying."""
        values = self._effects.values(found)
        gradients = self._gradients.at(values)
        scales = self._effects.scales.values()
        gradients |= gradients_of_scales(scales, values, gradients)
        estimated = most_harmful(
            self._effects,
            self._space,
            found,
            values,
            gradients,
            left,
            self._generator,
        )
        guided = [each.flips for each in estimated if each.is_guided]
        others = [each.flips for each in estimated if not each.is_guided]
        most = self._options.candidates
        kept = guided[: max(most - len(others), most // 2, 1)]
        return kept + others[: most - len(kept)]
