"""The effect of flips on the numbers that a model computes with, after codes and guards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proact.campaign.scale_gradients import values_of_scales
from proact.encodings import Encoding
from proact.encodings.coded_word import CodedWord
from proact.faults import ExposedTensor, FaultSite, Injector, Replay
from proact.nn.guard_hooks import error_correction_of, guards_on
from proact.nn.tensor_inventory import stored_tensors

Flips = tuple[FaultSite, ...]

#: The codewords of a tensor whose flips are estimated.
_CODEWORDS = 64
#: The rounds of random sets of flips, of each size, in tensors with a code.
_ROUNDS = 32
#: The most flips that a code in place corrects.
_MOST_IN_PLACE = 3
#: The flips of each comparison that are kept.
_OF_EACH = 4
#: Stands for infinity and NaN.
_LARGEST = torch.finfo(torch.float32).max


class FlipEffects:
    """Flips listed bits of one model, and reads what the model then computes with.

    Codes of the encoding correct what they can when bits are flipped. Guards act before a forward
    pass, and so before numbers are read.

    Args:
        model: rounded to the encoding (see `proact.faults.encode`), and used by nobody else.
        encoding: the stored form of its parameters.
    """

    def __init__(self, model: nn.Module, encoding: Encoding) -> None:
        self.model = model
        self._injector = Injector(model, encoding, is_private=True)
        self._tensors = {s.name: s.tensor.detach() for s in stored_tensors(model)}
        self.scales = {scale.name: scale for scale in self._injector.scales}

    @contextmanager
    def flipped(self, flips: Flips) -> Iterator[nn.Module]:
        """The model, whose bits are flipped until the block ends."""
        if not flips:
            yield self.model
            return
        with self._injector.trial(Replay(flips), 0, 0):
            yield self.model

    def values(self, flips: Flips) -> dict[str, Tensor]:
        """Copies of all stored tensors and scales by name, as a forward pass reads them."""
        with self.flipped(flips), _guards_acting(self.model):
            stored = {name: tensor.clone() for name, tensor in self._tensors.items()}
            return stored | values_of_scales(self.scales.values())

    def read(self, flips: Flips, elements: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some elements of stored tensors, as a forward pass reads them.

        Args:
            flips: the flipped bits.
            elements: row-major indices, (n, words) int64, by the name of a tensor.

        Returns:
            The values at the indices, (n, words) float64 on the CPU, by name.
        """
        with self.flipped(flips), _guards_acting(self.model):
            return {name: self._at(name, places) for name, places in elements.items()}

    def _at(self, name: str, places: Tensor) -> Tensor:
        if name in self.scales:
            return torch.from_numpy(self.scales[name].part.values(places.cpu().numpy()))
        return self._tensors[name].reshape(-1)[places].double().cpu()


@contextmanager
def _guards_acting(model: nn.Module) -> Iterator[None]:
    """Lets the guards do what they do around a forward pass."""
    with ExitStack() as stack:
        for owner in model.modules():
            for guard in guards_on(owner):
                guard.begin(owner)
                stack.callback(guard.end)
        yield


class Candidate(NamedTuple):
    """Flips in one codeword, and their estimated harm.

    Attributes:
        flips: the flipped bits.
        harm: the size of the first-order change of the loss if ``is_guided``, otherwise of the
            change of a number; above 0.
        is_guided: whether the gradient of the tensor is known.
    """

    flips: Flips
    harm: float
    is_guided: bool


def most_harmful(
    effects: FlipEffects,
    space: Sequence[ExposedTensor],
    found: Flips,
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    most_flips: int,
    generator: torch.Generator,
) -> list[Candidate]:
    """The flips of each tensor that change the loss most to first order.

    Flips are compared with flips of the same tensor, number and direction: those that raise the
    loss and those that lower it, because a large step leaves the range in which the gradient
    predicts. Where a tensor has no gradient, or one of 0, they raise or lower a number.

    Args:
        effects: of the model.
        space: the tensors and bits that may be flipped.
        found: the flips so far.
        values: of the stored tensors under these flips, by name.
        gradients: of the loss under these flips, by the name of a parameter.
        most_flips: the most flips of a candidate. Only tensors with a code get several.
        generator: draws the sets of several flips.

    Returns:
        The first of each comparison, the most harmful one in front, then the second ones, and so
        on.
    """
    tensors = [_Tensor(effects.model, each, values, gradients) for each in space]
    compared: dict[tuple[str, int, bool], dict[int, Candidate]] = {}
    # Numbers are read within the bounds that they will meet, and with the scales that they will
    # have. So bounds and scales have rounds of their own.
    for kind in dict.fromkeys(tensor.round for tensor in tensors):
        group = [tensor for tensor in tensors if tensor.round == kind]
        elements = {tensor.name: tensor.elements for tensor in group}
        for sets in _rounds(group, set(found), most_flips, generator):
            flips = tuple(flip for mine in sets for each in mine for flip in each)
            read = effects.read((*found, *flips), elements)
            for tensor, mine in zip(group, sets, strict=True):
                for codeword, is_raised, candidate in tensor.candidates(read[tensor.name], mine):
                    key = (tensor.name, len(candidate.flips), is_raised)
                    best = compared.setdefault(key, {})
                    if codeword not in best or candidate.harm > best[codeword].harm:
                        best[codeword] = candidate
    ranked = [sorted(best.values(), key=lambda each: -each.harm) for best in compared.values()]
    places = zip_longest(*(own[:_OF_EACH] for own in ranked))
    return [
        candidate
        for place in places
        for candidate in sorted((c for c in place if c is not None), key=lambda each: -each.harm)
    ]


class _Tensor:
    """The codewords of a tensor whose flips are estimated: those with the largest gradient.

    Without a gradient they are those with the largest number.
    """

    def __init__(
        self,
        model: nn.Module,
        exposed: ExposedTensor,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> None:
        self.name = exposed.name
        #: Tensors with the same entry are flipped together.
        self.round = exposed.stored.kind if exposed.stored.kind in ("bound", "scale") else ""
        words, self.most_flips = _code_of(model, exposed)
        gradient = gradients.get(self.name)
        if gradient is not None and not gradient.any():
            gradient = None  # at a minimum of the loss, or where it is not finite
        self._is_guided = gradient is not None
        flat = values[self.name].reshape(-1).double()
        slopes = torch.ones_like(flat) if gradient is None else gradient.reshape(-1).double()
        sizes = (flat if gradient is None else slopes).abs().nan_to_num(0.0)
        padded = torch.nn.functional.pad(sizes, (0, -len(sizes) % words)).view(-1, words)
        chosen = padded.amax(1).topk(min(_CODEWORDS, len(padded))).indices
        #: Row-major indices, (codewords, words). The tensor's last element stands for missing ones.
        self.elements = chosen[:, None] * words + torch.arange(words, device=chosen.device)
        is_there = self.elements < len(flat)
        self.elements = self.elements.clamp(max=len(flat) - 1)
        self._before = flat[self.elements].cpu()
        self._slopes = (slopes[self.elements] * is_there).cpu()
        self.bits = [
            [
                FaultSite(self.name, element, bit)
                for element in dict.fromkeys(row)
                for bit in exposed.bit_numbers
                if not isinstance(exposed.word, CodedWord) or exposed.word.has_bit(element, bit)
            ]
            for row in self.elements.tolist()
        ]

        width, places = _copies(exposed), set(exposed.bit_numbers)
        #: Flips of the same bit in two copies, for each codeword.
        self.pairs: list[list[Flips]] = [
            []
            if width is None
            else [
                (flip, flip._replace(bit=flip.bit + width))
                for flip in own
                if flip.bit < width and flip.bit + width in places
            ]
            for own in self.bits
        ]

    def candidates(
        self, after: Tensor, sets: Sequence[Flips]
    ) -> Iterator[tuple[int, bool, Candidate]]:
        """The flips of a round: (number of the codeword, whether they raise the loss, candidate).

        Args:
            after: the values under the flips, in the shape of ``elements``.
            sets: the flips in each codeword; empty ones are left out.
        """
        change = (after - self._before).nan_to_num(_LARGEST, _LARGEST, -_LARGEST)
        effect = (self._slopes * change).sum(1)
        for codeword, (harm, flips) in enumerate(zip(effect.tolist(), sets, strict=True)):
            if flips and harm != 0.0:
                yield codeword, harm > 0.0, Candidate(flips, abs(harm), self._is_guided)


def _rounds(
    tensors: Sequence[_Tensor], found: set[FaultSite], most_flips: int, generator: torch.Generator
) -> Iterator[list[list[Flips]]]:
    """Rounds of flips: for each tensor, the flips in each of its codewords.

    Single flips come first, each bit of each codeword once. In tensors with a code follow flips of
    the same bit in two copies, if it stores copies, and random sets of several flips. A set with a
    bit that is flipped already is empty.
    """

    def without_found(flips: Flips) -> Flips:
        return () if found.intersection(flips) else flips

    for number in range(max((len(own) for t in tensors for own in t.bits), default=0)):
        yield [[without_found(tuple(own[number : number + 1])) for own in t.bits] for t in tensors]
    if most_flips >= 2:
        for number in range(max((len(own) for t in tensors for own in t.pairs), default=0)):
            yield [[without_found(_at(own, number)) for own in t.pairs] for t in tensors]
    most = max((tensor.most_flips for tensor in tensors), default=1)
    for together in range(2, min(most_flips, most) + 1):
        for _ in range(_ROUNDS):
            yield [
                [
                    without_found(_drawn(own, together, generator))
                    if together <= tensor.most_flips
                    else ()
                    for own in tensor.bits
                ]
                for tensor in tensors
            ]


def _at(sets: Sequence[Flips], number: int) -> Flips:
    return sets[number] if number < len(sets) else ()


def _drawn(bits: Sequence[FaultSite], count: int, generator: torch.Generator) -> Flips:
    order = torch.randperm(len(bits), generator=generator)[:count]
    return tuple(bits[number] for number in order.tolist())


def _code_of(model: nn.Module, exposed: ExposedTensor) -> tuple[int, int]:
    """The words of a codeword of a tensor, and the most flips that are tried together in it.

    Without a code, both are 1. The code is that of the encoding, or that of an ecc guard. One flip
    more than a code corrects is detected or not; two more can be taken for another codeword.
    """
    if isinstance(exposed.word, CodedWord):
        return exposed.words_per_check, exposed.word.fitted.code.corrects + 2
    for prefix, owner in model.named_modules():
        guard = error_correction_of(owner)
        for name in guard.coded(owner) if guard is not None else ():
            if (f"{prefix}.{name}" if prefix else name) in exposed.stored.names:
                assert guard is not None
                return guard.code_of(name).code.words, _MOST_IN_PLACE + 2
    return 1, 1


def _copies(exposed: ExposedTensor) -> int | None:
    """The width of a word whose code stores three copies of it, one after the other; else None."""
    word = exposed.word
    if isinstance(word, CodedWord) and word.fitted.code.name == "tmr":
        return word.format.bits
    return None
