"""Flips in scales: the numbers that share a changed scale are read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proact.encodings.base import Words, as_floats, as_memory
from proact.encodings.scaled_words import ScaledWord, StoredScale
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.overwritten_words import OverwrittenWords, memory_words, rows_by_tensor
from proact.faults.reversible_flips import PendingFlips, ReversibleFlips
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.plan import FlipColumns, FlipLog, FlipPlan
from proact.ops.scale_plan import RereadLog, ScalePlan


class FlipsWithScales:
    """Flips in tensors and in scales.

    Elements are flipped first, with their clean scales, and scales last: the words of elements
    cannot be told from their values once a scale has changed. Afterwards the elements with changed
    scales are read again. The cost is in proportion to their number.

    Args:
        exposed: the tensors and scales.
        scaled: the words whose scales are among them.
        flips: the flips of their stored words.
        plan: the plan by which native code reads numbers again; None if numpy reads them.
    """

    def __init__(
        self,
        exposed: Sequence[ExposedTensor],
        scaled: Sequence[ScaledWord],
        flips: ReversibleFlips,
        plan: ScalePlan | None,
    ) -> None:
        self._scaled, self._flips = scaled, flips
        self._reread: _Reread
        if plan is not None and isinstance(flips, FlipLog):
            self._reread = _NativeReread(plan, flips)
        else:
            self._reread = _PlainReread(exposed, flips)

    def pending(self, make_flips: Callable[[], None]) -> PendingFlips:
        """These flips, not made yet; ``make_flips`` makes those of the stored words."""

        def apply() -> None:
            make_flips()
            self._reread.apply()
            if self._reread.has_changed:
                self._mark(True)

        return PendingFlips(self, apply)

    def __len__(self) -> int:
        return len(self._flips)

    def tensors(self) -> Sequence[int]:
        return self._flips.tensors()

    def columns(self) -> FlipColumns:
        return self._flips.columns()

    def restore(self) -> None:
        try:
            self._reread.restore()
        finally:
            self._flips.restore()
            if self._reread.has_changed:  # an injection without flips in scales marks nothing
                self._mark(False)

    def before_scales(
        self, stored: StoredTensor, element: NDArray[np.uint64], memory: Words
    ) -> Words:
        """The memory words of elements as they were before scales changed.

        Args:
            stored: a tensor of the model.
            element: row-major indices, uint64 (n,).
            memory: their words now, or after the flips were undone.
        """
        elements, before = self._reread.words_of(stored)
        if not len(elements):
            return memory
        place = np.minimum(np.searchsorted(elements, element), len(elements) - 1)
        return np.where(elements[place] == element, before[place], memory)

    def _mark(self, are_changed: bool) -> None:
        for word in self._scaled:
            word.are_scales_changed = are_changed


def scaled_tensors(exposed: Sequence[ExposedTensor]) -> dict[ScaledWord, StoredTensor]:
    """The tensors whose scales are exposed, by the form of their elements."""
    scales = (each.stored for each in exposed)
    return {scale.scaled: scale.of for scale in scales if isinstance(scale, StoredScale)}


def scale_plan(
    scaled: Mapping[ScaledWord, StoredTensor], flips: FlipPlan | None
) -> ScalePlan | None:
    """A plan that reads numbers of these tensors again.

    None if there are none, or if native code does not make the flips.
    """
    if not scaled or flips is None or not flips.is_on_host:
        return None
    plan = ScalePlan()
    for word, stored in scaled.items():
        word.add_to(plan, stored)
    return plan


class _Reread(Protocol):
    """Numbers that are read again after their scales were flipped."""

    def apply(self) -> None: ...
    def restore(self) -> None: ...
    @property
    def has_changed(self) -> bool:
        """Whether scales were flipped."""

    def words_of(self, stored: StoredTensor) -> tuple[NDArray[np.uint64], Words]:
        """The elements of a tensor that were read again, ascending, and their old words."""


class _NativeReread:
    def __init__(self, plan: ScalePlan, flips: FlipLog) -> None:
        self._plan, self._flips = plan, flips
        self._log = RereadLog(plan)

    def apply(self) -> None:
        self._plan.reread(self._log, self._flips)

    @property
    def has_changed(self) -> bool:
        return len(self._log) > 0

    def restore(self) -> None:
        self._log.restore()

    def words_of(self, stored: StoredTensor) -> tuple[NDArray[np.uint64], Words]:
        return self._log.words_of(stored.tensor)


class _PlainReread:
    def __init__(self, exposed: Sequence[ExposedTensor], flips: ReversibleFlips) -> None:
        self._exposed, self._flips = exposed, flips
        self._is_scale = np.array([isinstance(each.stored, StoredScale) for each in exposed])
        self._words = OverwrittenWords()
        self.has_changed = False

    def apply(self) -> None:
        # Which tensors were hit is known without waiting for a GPU, unlike the flips.
        if not self._is_scale[list(self._flips.tensors())].any():
            return
        columns = self._flips.columns()
        rows = np.flatnonzero(self._is_scale[columns.tensor])
        self.has_changed = len(rows) > 0
        hit: dict[StoredTensor, list[NDArray[np.uint64]]] = {}
        words: dict[StoredTensor, ScaledWord] = {}
        for tensor, mine in rows_by_tensor(columns.tensor[rows]):
            scale = self._exposed[tensor].stored
            assert isinstance(scale, StoredScale)
            numbers = np.unique(columns.element[rows[mine]].astype(np.int64))
            elements = scale.part.layout.elements_with(numbers, scale.of.tensor.numel())
            hit.setdefault(scale.of, []).append(elements)
            words[scale.of] = scale.scaled
        for stored, parts in hit.items():
            element, dtype = np.unique(np.concatenate(parts)), stored.tensor.dtype
            before = memory_words(stored.name, stored.tensor, element)
            values = words[stored].reread(as_floats(before, dtype), element)
            after = as_memory(values, dtype)
            self._words.write(stored.name, stored.tensor, element, before, after)

    def restore(self) -> None:
        self._words.restore()

    def words_of(self, stored: StoredTensor) -> tuple[NDArray[np.uint64], Words]:
        return self._words.of(stored.tensor)
