"""What one trial did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proact.faults.replay import FaultSite, Replay
from proact.faults.rollback import undo_all
from proact.faults.space import ExposedTensor
from proact.faults.target_memory import ReversibleFlips, rows_by_tensor
from proact.ops.plan import FlipColumns

_GROUPS: dict[str, Callable[[ExposedTensor], str]] = {
    "tensor": lambda exposed: exposed.name,
    "layer": lambda exposed: exposed.stored.layer,
    "kind": lambda exposed: exposed.stored.kind,
}


@dataclass(frozen=True)
class TensorFlips:
    """Flips of some tensors, and how the tensors stood to them when they were made."""

    exposed: Sequence[ExposedTensor]
    flips: ReversibleFlips


class Record:
    """What one trial did to the stored parameters and, so far, to activations.

    Attributes:
        activation_flips: bits flipped in activations up to now.
        activation_bits: exposed bits of the activations that passed.
    """

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.exposed_bits = 0
        self.activation_flips = 0
        self.activation_bits = 0
        self._stored: list[TensorFlips] = []
        self._activations: list[tuple[ExposedTensor, FlipColumns]] = []

    @property
    def stored_flips(self) -> int:
        """The realised number of flipped bits in stored parameters and buffers."""
        return sum(len(part.flips) for part in self._stored)

    @property
    def flips(self) -> int:
        """The realised number of flipped bits, of parameters and activations."""
        return self.stored_flips + self.activation_flips

    @property
    def ber(self) -> float:
        """The realised bit error rate: flips over exposed bits; activations count each time that
        they are stored. 0 where nothing has been exposed yet."""
        return self.flips / max(self.exposed_bits + self.activation_bits, 1)

    def counts(self, by: str = "tensor") -> dict[str, int]:
        """The flips of each ``"tensor"``, ``"layer"`` or ``"kind"`` that was hit, most first.

        Flips in activations count where they were logged.
        """
        if by not in _GROUPS:
            raise ValueError(f"flips are counted by {', '.join(_GROUPS)}; got {by!r}")
        found: Counter[str] = Counter()
        for exposed, columns in self.parts():
            for index, rows in rows_by_tensor(columns.tensor):
                found[_GROUPS[by](exposed[index])] += len(rows)
        return dict(found.most_common())

    def faults(self) -> NDArray[np.void]:
        """One row a flipped bit, in the order in which they were made.

        Fields: ``tensor`` (qualified name; of an activation ``layer:output[0]:call``), ``element``
        (row-major index), ``bit`` (of the stored word, 0 the lowest), ``before`` and ``after`` (the
        values around this flip; a word with two flips has two rows, the second beginning where the
        first ended). Flips in activations are there where `inject` was asked to log them.
        """
        parts = self.parts()
        names = [np.array([tensor.name for tensor in exposed]) for exposed, _ in parts]
        longest = max((name.dtype.itemsize // 4 for name in names), default=1)
        fields = [("tensor", f"U{longest}"), ("element", "u8"), ("bit", "u1")]
        rows = np.empty(
            sum(len(columns.bit) for _, columns in parts),
            dtype=[*fields, ("before", "f8"), ("after", "f8")],
        )
        at = 0
        for (exposed, columns), name in zip(parts, names, strict=True):
            mine = rows[at : at + len(columns.bit)]
            mine["tensor"] = name[columns.tensor]
            mine["element"], mine["bit"] = columns.element, columns.bit
            for index, of_tensor in rows_by_tensor(columns.tensor):
                before, after = _values(exposed[index], columns, of_tensor)
                mine["before"][of_tensor], mine["after"][of_tensor] = before, after
            at += len(mine)
        return rows

    def replay(self) -> Replay:
        """The flips in stored parameters as a fault that makes them again."""
        sites: list[tuple[str, int, int]] = []
        shapes: dict[str, tuple[int, ...]] = {}
        for part in self._stored:
            columns = part.flips.columns()
            for index, rows in rows_by_tensor(columns.tensor):
                exposed = part.exposed[index]
                shapes[exposed.name] = tuple(exposed.tensor.shape)
                elements, bits = columns.element[rows].tolist(), columns.bit[rows].tolist()
                sites.extend((exposed.name, e, b) for e, b in zip(elements, bits, strict=True))
        # A bit that two faults of one trial flip is back where it was.
        once = [site for site, times in Counter(sites).items() if times % 2]
        return Replay(tuple(FaultSite(*site) for site in once), shapes, self.encoding)

    def add(self, part: TensorFlips) -> None:
        """Flips that `restore` undoes, made already or about to be."""
        self._stored.append(part)

    def restore(self) -> None:
        """Undoes the flips in stored tensors, the last ones first."""
        undo_all(part.flips.restore for part in reversed(self._stored))

    def log_activation(self, exposed: ExposedTensor, columns: FlipColumns) -> None:
        """Adds rows of one activation to `faults`."""
        self._activations.append((exposed, columns))

    def parts(self) -> list[tuple[Sequence[ExposedTensor], FlipColumns]]:
        """The flips of each part of the fault space, by the numbers of its tensors."""
        stored = [(part.exposed, part.flips.columns()) for part in self._stored]
        return stored + [([exposed], columns) for exposed, columns in self._activations]


def _values(
    exposed: ExposedTensor, columns: FlipColumns, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values before and after each flip of one tensor."""
    element, bit = columns.element[rows], columns.bit[rows].astype(np.uint64)
    before = exposed.word.words_in(columns.before[rows], exposed.tensor.dtype, element)
    _chain_repeated(element, bit, before)
    after = before ^ (np.uint64(1) << bit)
    return exposed.word.values(before, element), exposed.word.values(after, element)


def _chain_repeated(
    element: NDArray[np.uint64], bit: NDArray[np.uint64], before: NDArray[np.uint64]
) -> None:
    """Lets a word's second flip start from the stored word that its first one left.

    The logged memory may be a float that the stored word was rounded to.
    """
    order = np.argsort(element, kind="stable")
    for i in np.flatnonzero(element[order][1:] == element[order][:-1]):
        first, second = order[i], order[i + 1]
        before[second] = before[first] ^ (np.uint64(1) << bit[first])
