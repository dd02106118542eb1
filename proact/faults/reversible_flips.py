"""Flips that can be undone, and flips that are not made yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from proact.ops.plan import FlipColumns


class ReversibleFlips(Protocol):
    """Flips that were made and can be undone."""

    def __len__(self) -> int: ...
    def tensors(self) -> Sequence[int]:
        """The numbers of the tensors that may have changed, each once."""

    def restore(self) -> None: ...
    def columns(self) -> FlipColumns: ...


class PendingFlips(NamedTuple):
    """Flips that are drawn but not made yet.

    ``apply`` makes them; if it is interrupted, ``flips.restore()`` undoes those that were made.
    """

    flips: ReversibleFlips
    apply: Callable[[], None]

    def applied(self) -> ReversibleFlips:
        self.apply()
        return self.flips
