"""Coded buffers during a forward, which must not write to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from proact.nn.stored_guard import tensor_named
from proact.ops.sweep_counts import SweepTotals


class WatchedBuffers:
    """Buffers as they are when a forward begins. A copy or a pickle watches none.

    Args:
        buffers: the buffers by their names in the model; inference tensors cannot be watched.
        totals: what the guards of the model have found so far.
    """

    def __init__(
        self, buffers: Mapping[str, Tensor] | None = None, totals: Sequence[SweepTotals] = ()
    ) -> None:
        named = (buffers or {}).items()
        self._versions = [(n, t, t._version) for n, t in named if not t.is_inference()]
        self._totals = totals

    def written(self, model: nn.Module, totals: Sequence[SweepTotals]) -> str | None:
        """The name of a buffer that the forward has written or replaced; None if there is none.

        If guards have changed numbers since, and versions with them, no buffer counts as written.
        """
        for name, tensor, version in self._versions:
            if tensor._version != version or tensor_named(model, name) is not tensor:
                before, now = ([each.read() for each in of] for of in (self._totals, totals))
                return name if before == now else None
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return WatchedBuffers, ()
