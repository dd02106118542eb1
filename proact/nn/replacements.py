"""Numbers in place of stored ones that are lost."""

from __future__ import annotations

import torch

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


def finite_range(stored: StoredTensor) -> tuple[float, float]:
    """The smallest and the largest finite number of a tensor; (0, 0) if there is none."""
    tensor = stored.tensor.detach()
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()  # torch has few operations on floats of 8 bits
    finite = tensor[torch.isfinite(tensor)]
    return (float(finite.amin()), float(finite.amax())) if finite.numel() else (0.0, 0.0)
