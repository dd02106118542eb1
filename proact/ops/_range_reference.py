"""Range restriction in plain torch.

It is the oracle of the tests, the fallback without the native module, and the implementation for
memory that native code does not read. The formula is that of csrc/core/value_range.hpp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proact.ops.sweep_log import ReferenceSweepLog

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
    floor, ceiling = _finite(low, high, x.dtype)
    outside = ~((value >= floor) & (value <= ceiling))
    result = torch.where(floor > 0, floor, torch.where(ceiling < 0, ceiling, 0.0))
    if action == "saturate":
        neutral = result
        result = torch.where((value < floor) & (floor == low), low, neutral)
        result = torch.where((value > ceiling) & (ceiling == high), high, result)
    result = torch.where(floor <= ceiling, result, 0.0)
    return outside, result.expand_as(x).to(x.dtype)


def nearest_to_zero(low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    """The number nearest to 0 between two bounds, as ``dtype``; 0 if no number passes them."""
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    floor, ceiling = _finite(low.to(wide), high.to(wide), dtype)
    result = torch.where(floor > 0, floor, torch.where(ceiling < 0, ceiling, 0.0))
    return torch.where(floor <= ceiling, result, 0.0).to(dtype)


def _finite(low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bounds within the finite numbers of ``dtype``."""
    finite = torch.finfo(dtype).max
    return torch.where(low < -finite, -finite, low), torch.where(high > finite, finite, high)


def sweep(
    tensor: Tensor, low: Tensor, high: Tensor, action: str, log: ReferenceSweepLog, name: str
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
