"""Range restriction in plain torch.

It is the oracle of the tests, the fallback without the native module, and the implementation for
memory that native code does not read. The formula is that of csrc/core/value_range.hpp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proact.ops.plain_memory import has_plain_memory, is_writable

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def restricted(x: Tensor, low: Tensor, high: Tensor, action: str) -> tuple[Tensor, Tensor]:
    """Elements outside their bounds, and their replacements.

    Args:
        x: any shape.
        low, high: bounds that broadcast against ``x``, ends included; they are converted to the
            dtype in which ``x`` is computed.
        action: ``"zero"`` or ``"saturate"``.

    Returns:
        A bool tensor that marks the elements outside, and the replacements with the dtype of ``x``;
        both have the shape of ``x``.
    """
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    value, low, high = x.to(wide), low.to(wide), high.to(wide)
    finite = torch.finfo(x.dtype).max
    floor = torch.where(low < -finite, -finite, low)
    ceiling = torch.where(high > finite, finite, high)
    outside = ~((value >= floor) & (value <= ceiling))
    result = torch.where(floor > 0, floor, torch.where(ceiling < 0, ceiling, 0.0))
    if action == "saturate":
        neutral = result
        result = torch.where((value < floor) & (floor == low), low, neutral)
        result = torch.where((value > ceiling) & (ceiling == high), high, result)
    result = torch.where(floor <= ceiling, result, 0.0)
    return outside, result.expand_as(x).to(x.dtype)


class ReferenceRangeLog:
    """The words that sweeps overwrote, and their positions."""

    def __init__(self) -> None:
        self._written: list[tuple[str, Tensor, tuple[Tensor, ...], Tensor]] = []

    def note(self, name: str, words: Tensor, places: tuple[Tensor, ...]) -> None:
        self._written.append((name, words, places, words[places]))

    def restore(self) -> list[str]:
        """Writes the words back; returns the names of tensors whose memory is gone."""
        lost = []
        # Inference tensors can only be written in inference mode.
        with torch.inference_mode():
            for name, words, places, before in self._written:
                if has_plain_memory(words) and is_writable(words):
                    words[places] = before
                else:
                    lost.append(name)
        return lost


def sweep(
    tensor: Tensor, low: Tensor, high: Tensor, action: str, log: ReferenceRangeLog, name: str
) -> int:
    """Repairs one tensor; returns the number of replaced elements."""
    with torch.inference_mode():
        memory = tensor.detach().unsqueeze(0)  # a tensor without dimensions takes no indices
        outside, result = restricted(memory, low, high, action)
        places = outside.nonzero(as_tuple=True)
        repairs = len(places[0])
        if repairs:
            words = memory.view(_WORDS[memory.element_size()])
            log.note(name, words, places)
            memory[places] = result[places]
        return repairs
