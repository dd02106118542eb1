"""Numbers in place of stored ones that are lost."""

from __future__ import annotations

import torch
from torch import Tensor

from proact.nn.tensor_inventory import StoredTensor


def replacement_for(stored: StoredTensor) -> float:
    """The number in place of a lost one, in the range of the tensor's finite numbers.

    It is the number nearest to 0, except where another one does less harm: the loosest bound or
    threshold, because a bound of 0 would replace every number that it bounds; the largest variance,
    because a small one amplifies a channel; and otherwise the median of a normalisation.
    """
    low, high = finite_range(stored)
    if stored.kind == "bound":
        return low if stored.name.endswith("low") else high
    if stored.kind == "threshold":
        return high
    if stored.kind == "statistics" and stored.name.endswith("running_var"):
        return high
    if stored.kind in ("normalisation", "statistics"):
        return float(stored.tensor.double().nanmedian())
    return low if low > 0 else high if high < 0 else 0.0


def widened(tensor: Tensor) -> Tensor:
    """The same numbers in a dtype that torch computes with: float32 for floats of 8 bits, int64 for
    unsigned integers of 16 and 32 bits; other tensors as they are."""
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return tensor.float()
    return tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32) else tensor


def finite_range(stored: StoredTensor) -> tuple[float, float]:
    """The smallest and the largest finite number of a tensor; (0, 0) if there is none."""
    tensor = widened(stored.tensor.detach())
    finite = tensor[torch.isfinite(tensor)]
    return (float(finite.amin()), float(finite.amax())) if finite.numel() else (0.0, 0.0)
