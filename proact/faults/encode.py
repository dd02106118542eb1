"""Rounds a model to an encoding and reports the error of rounding."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proact.encodings import Encoding
from proact.encodings.coded_word import CodedWord
from proact.faults.bounds import RoundedBounds, guards_of, refuse_recoding
from proact.faults.fault import Fault, StoredFault
from proact.faults.injection_plan import InjectionPlan, cache_plan, is_roundable
from proact.faults.mixed_encoding import EncodingLike, checked_encoding
from proact.faults.replay import Replay
from proact.faults.selectors import Selector, Where, as_tuple, checked_where, matches
from proact.nn.module_copy import copy_model
from proact.nn.tensor_inventory import named_memories, stored_tensors
from proact.ops._memory import extent, may_overlap, once
from proact.ops.plain_memory import checked_memory, has_plain_memory
from proact.text import label


def encode(model: nn.Module, encoding: EncodingLike, *, where: Selector | None = "*") -> nn.Module:
    """Returns a copy of ``model`` whose parameters are rounded to the encoding.

    ``model`` is unchanged. Clean accuracy is the accuracy of the copy; `encoding_report` gives the
    error of rounding. Warns if parameters are out of the encoding's range and were saturated. The
    parameters of the copy are contiguous and can be written.

    Args:
        model: the model.
        encoding: the stored form of its parameters, by name or by selectors.
        where: the tensors that faults will hit, as for `BitFlip`, or None for no tensor. Other
            tensors that the encoding cannot store (sparse, complex or integer ones, for example)
            are copied as they are. `selector_of` gives it for a list of faults.

    Raises:
        TypeError, ValueError: an unknown encoding, a selected tensor that it cannot store, or
            bounds of weight-range that it stores with less precision than the values they bound.
    """
    encoding = checked_encoding(encoding)
    selector = None if where is None else checked_where(where)
    result = copy_model(model)
    _lay_out(result)
    losses = _store(result, encoding, selector)
    if any(loss.saturated for loss in losses):
        warnings.warn(_of_saturation(encoding, losses), stacklevel=2)
    cache_plan(result, InjectionPlan(result, encoding))
    return result


def selector_of(faults: Iterable[Fault]) -> Selector | None:
    """The tensors that at least one of the faults hits; None if they hit no stored tensor."""
    parts: list[str | Where] = []
    for fault in faults:
        if isinstance(fault, StoredFault):
            parts += as_tuple(fault.where)
        elif isinstance(fault, Replay):
            parts += (glob.escape(name) for name in {site.tensor for site in fault.faults})
    return tuple(dict.fromkeys(parts)) or None


@dataclass(frozen=True)
class TensorLoss:
    """The error of storing one tensor in an encoding.

    Attributes:
        tensor: its qualified name.
        word: the name of its stored form.
        elements: its number of elements.
        largest_error: the largest magnitude of stored minus original value.
        saturated: the number of elements that were out of range and were clamped.
        bits: the number of stored bits, check bits included.
        saturated_by_code: the saturated elements that fit the format and not the payload that a
            code leaves of its words.
    """

    tensor: str
    word: str
    elements: int
    largest_error: float
    saturated: int
    bits: int
    saturated_by_code: int = 0


@dataclass(frozen=True)
class EncodingReport:
    """The error of storing a model in an encoding, without faults.

    Attributes:
        encoding: the encoding's name.
        accuracy_before, accuracy_after: the results of the given ``accuracy`` function for the
            original and the encoded model; None if no function was given.
        tensors: one `TensorLoss` for each stored tensor.
    """

    encoding: str
    accuracy_before: float | None
    accuracy_after: float | None
    tensors: tuple[TensorLoss, ...]

    @property
    def largest_error(self) -> float:
        """The largest magnitude of stored minus original value over all tensors."""
        return max(loss.largest_error for loss in self.tensors)

    @property
    def saturated(self) -> int:
        """The number of elements that were out of range."""
        return sum(loss.saturated for loss in self.tensors)

    @property
    def bits_per_parameter(self) -> float:
        """The memory in bits a parameter: all stored bits, check bits included, over all numbers.

        Numbers in buffers (running statistics, thresholds, bounds) are stored too and count.
        """
        return sum(loss.bits for loss in self.tensors) / sum(loss.elements for loss in self.tensors)

    def __str__(self) -> str:
        worst = max(self.tensors, key=lambda loss: loss.largest_error)
        largest = f"{worst.largest_error:.3g} ({label(worst.tensor)})"
        text = f"{label(self.encoding)}: largest rounding error {largest}"
        text += f", {self.saturated} of {sum(t.elements for t in self.tensors)} numbers saturated"
        text += f", {self.bits_per_parameter:.4g} bits a parameter"
        if self.accuracy_before is not None and self.accuracy_after is not None:
            text += (
                f", accuracy {100 * self.accuracy_before:.2f} % before and "
                f"{100 * self.accuracy_after:.2f} % after"
            )
        return text


def encoding_report(
    model: nn.Module,
    encoding: EncodingLike,
    accuracy: Callable[[nn.Module], float] | None = None,
) -> EncodingReport:
    """Reports the error of storing ``model`` in the encoding; ``model`` is unchanged.

    Args:
        model: the model.
        encoding: the stored form of its parameters.
        accuracy: evaluates a model in eval mode, such as
            ``lambda model: proact.models.accuracy(model, data.test)``. It is called with a copy of
            ``model`` and with the encoded one. None leaves accuracy out.

    Raises:
        TypeError, ValueError: as `encode`.
    """
    encoding = checked_encoding(encoding)
    encoded = copy_model(model)
    losses = _store(encoded, encoding)
    if not losses:
        raise ValueError(
            f"{type(model).__name__} has no parameters or buffers that an encoding can store; "
            "packed int8 weights cannot be read"
        )
    before = after = None
    if accuracy is not None:
        before = accuracy(copy_model(model).eval())
        after = accuracy(encoded.eval())
    return EncodingReport(encoding.name, before, after, losses)


def _lay_out(model: nn.Module) -> None:
    """Makes the dense tensors of a copied model contiguous, such as channels-last weights."""
    dense: dict[tuple[int, int], list[Tensor]] = {}
    for _, tensor, _ in named_memories(model):
        if tensor.numel() and has_plain_memory(tensor) and not may_overlap(tensor):
            dense.setdefault(extent(tensor), []).append(tensor)
    for tied in dense.values():
        # Tensors that share memory in different layouts would be torn apart.
        layouts = {(tensor.dtype, tensor.shape, tensor.stride()) for tensor in tied}
        if len(layouts) == 1 and not tied[0].is_contiguous():
            memory = tied[0].detach().contiguous()
            for tensor in tied:
                tensor.data = memory


def _store(
    model: nn.Module, encoding: Encoding, where: Selector | None = "*"
) -> tuple[TensorLoss, ...]:
    """Rounds a model in place; tensors outside ``where`` that it cannot store stay as they are."""
    losses = []
    guards, tensors = guards_of(model), stored_tensors(model)
    refuse_recoding(guards, tensors, encoding)
    bounds = RoundedBounds(guards)
    with torch.no_grad():
        for stored in bounds.in_order(tensors):
            tensor = stored.tensor
            if where is not None and matches(where, stored):
                checked_memory(stored.name, tensor)
                word = encoding.word(stored)
            else:
                if not is_roundable(tensor):
                    continue
                try:
                    word = encoding.word(stored)
                except (TypeError, ValueError):
                    continue
            rounded = bounds.rounded(stored, word)
            bounds.include(stored, rounded)
            bounds.check(stored, rounded)
            error, saturated, by_code = 0.0, 0, 0
            if rounded is not tensor:
                saturates = word.saturates(tensor)
                saturated = int(saturates.sum())
                if saturated and isinstance(word, CodedWord):
                    by_code = int((saturates & ~word.format.saturates(tensor)).sum())
                errors = (rounded.double() - tensor.double()).abs()
                is_lost = rounded.isnan() & ~tensor.isnan()
                errors = torch.where(is_lost, torch.inf, errors.nan_to_num(0.0, torch.inf))
                error = float(errors.max())
                once(tensor).copy_(once(rounded, tensor))
            elements = tensor.numel()
            bits = word.stored_bits(elements)
            losses.append(
                TensorLoss(stored.name, word.name, elements, error, saturated, bits, by_code)
            )
    return tuple(losses)


def _of_saturation(encoding: Encoding, losses: Sequence[TensorLoss]) -> str:
    """The warning that parameters were saturated."""
    saturated = [loss for loss in losses if loss.saturated]
    worst = max(saturated, key=lambda loss: loss.largest_error)
    found = sum(loss.saturated for loss in saturated)
    by_code = sum(loss.saturated_by_code for loss in saturated)
    text = (
        f"{found} of {sum(loss.elements for loss in losses)} numbers are out of the range of "
        f"{encoding.name} and were saturated"
    )
    if by_code:
        widest = max(saturated, key=lambda loss: loss.saturated_by_code)
        text += (
            f", {by_code} of them because the payload that the code leaves of a word is too small "
            f"({widest.word})"
        )
    return f"{text}; the largest error is {worst.largest_error:.3g}, in {worst.tensor}"
