"""Writes check bits into the words of a model's tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from proact.nn.stored_guard import mark_written
from proact.nn.weight_range import WeightRange
from proact.ops.in_place_code import (
    TensorCode,
    encode_words_,
    encodes_in_place,
    memory_words,
)


def encode_tensor(tensor: Tensor, code: TensorCode) -> None:
    """Writes check bits into a tensor on any device with any strides."""
    tensor = tensor.detach()
    if encodes_in_place(tensor):
        encode_words_(tensor, code)
        mark_written([tensor])
    else:
        words = tensor.cpu().contiguous().clone()
        encode_words_(words, code)
        tensor.copy_(words)


def encode_bounds(bounds: Tensor, code: TensorCode, is_low: bool) -> None:
    """Writes check bits into lower or upper bounds, and moves those that exclude a value outwards.

    Coding changes the bits below the payload, so that one step of the payload is enough. A bound
    beyond the range of the dtype becomes infinite.

    Args:
        bounds: contiguous bounds, coded in place.
        code: the code of their words.
        is_low: whether they are lower bounds.
    """
    needed = bounds.clone()
    step = _steps(code, bounds)
    encode_tensor(bounds, code)
    for _ in range(4):
        excludes = bounds > needed if is_low else bounds < needed
        if not excludes.any():
            return
        words = memory_words(bounds).cpu()
        # Away from 0 for a lower bound below 0 and an upper bound above 0.
        grows = ((needed < 0) == is_low).cpu()
        moved = torch.where(grows, words + step, words - step)
        # A magnitude below one step becomes 0 with the sign that keeps it outside.
        magnitude = words & torch.iinfo(words.dtype).max
        zero = torch.iinfo(words.dtype).min if is_low else 0
        moved = torch.where(~grows & (magnitude < step), zero, moved)
        memory_words(bounds).copy_(torch.where(excludes.cpu(), moved, words))
        encode_tensor(bounds, code)


def write_check_bits(
    model: nn.Module, tensors: Mapping[str, Tensor], codes: Mapping[str, TensorCode], label: str
) -> None:
    """Writes check bits into tensors of a model; bounds of weight-range follow the coded values.

    Args:
        model: the model.
        tensors: its tensors by name.
        codes: the codes of at least these tensors.
        label: the codes as text, for errors.

    Raises:
        ValueError: a coded bound that would be infinite.
    """
    sides = {name: bound_side(model, name) for name in tensors}
    with torch.no_grad():
        for name, tensor in tensors.items():
            if sides[name] is None:
                encode_tensor(tensor, codes[name])
        guard = WeightRange.of(model)
        if guard is None:
            return
        guard.measure(model)
        for name, tensor in tensors.items():
            if (side := sides[name]) is None:
                continue
            encode_bounds(tensor, codes[name], is_low=side == -1)
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"values that {name} bounds are too large for check bits of {label}: remove "
                    "weight-range, or scale the values"
                )


def bound_side(model: nn.Module, name: str) -> int | None:
    """-1 for the lower bounds of weight-range, 1 for the upper ones, None for other tensors."""
    if WeightRange.of(model) is None:
        return None
    return {f"{WeightRange.own_name}.low": -1, f"{WeightRange.own_name}.high": 1}.get(name)


def _steps(coded: TensorCode, tensor: Tensor) -> Tensor:
    """The lowest payload bit of each word, as integers of the size of the words."""
    steps: list[int] = []
    for code, _, codewords in coded.parts(tensor.numel()):
        steps += code.steps * codewords
    return torch.tensor(steps, dtype=memory_words(tensor).dtype)
