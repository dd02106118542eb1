"""The record of one trial: realised flips, by tensor and bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from proact.encodings.scaled_words import owner_of
from proact.faults.coded_target import DecodedFlips
from proact.faults.decoding import CORRECTED, DETECTED, MISCORRECTED, OUTCOMES
from proact.faults.exposed_tensor import ExposedTensor
from proact.faults.overwritten_words import rows_by_tensor
from proact.faults.replay import FaultSite, Replay
from proact.faults.reversible_flips import ReversibleFlips
from proact.faults.rollback import undo_all
from proact.ops.plan import FlipColumns
from proact.text import short_repr

_GROUPS: dict[str, Callable[[ExposedTensor], str]] = {
    "tensor": lambda exposed: exposed.name,
    "layer": lambda exposed: exposed.stored.layer,
    "kind": lambda exposed: exposed.stored.kind,
}


class TensorFlips(NamedTuple):
    """Flips in a list of tensors, by their numbers in the list."""

    exposed: Sequence[ExposedTensor]
    flips: ReversibleFlips


class RecordedPart(NamedTuple):
    """Flips in a list of tensors as columns, which give tensors by their numbers in the list."""

    exposed: Sequence[ExposedTensor]
    columns: FlipColumns
    #: In an encoding with a code, or if several faults with flips in scales were made together.
    decoded: DecodedFlips | None = None


class Record:
    """The realised flips of one trial in stored tensors and, so far, in activations.

    Attributes:
        encoding: the name of the encoding.
        exposed_bits: number of exposed bits in stored tensors, summed over the faults.
        activation_flips: number of bits flipped in activations so far.
        activation_bits: number of exposed bits in the activations so far.
    """

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.exposed_bits = 0
        self.activation_flips = 0
        self.activation_bits = 0
        self._stored: list[TensorFlips] = []
        self._activations: list[RecordedPart] = []

    @property
    def stored_flips(self) -> int:
        """The realised number of flipped bits in stored parameters and buffers."""
        return sum(len(part.flips) for part in self._stored)

    @property
    def flips(self) -> int:
        """The realised number of flipped bits in stored tensors and activations."""
        return self.stored_flips + self.activation_flips

    @property
    def changed(self) -> list[str]:
        """The names of the stored tensors that hold other values because of the faults.

        A tensor counts as changed if its scales are. In an encoding with a code, tensors whose
        flips were all corrected are not among them.
        """
        hit = (p.exposed[number].stored for p in self._stored for number in p.flips.tensors())
        return list(dict.fromkeys(owner_of(stored).name for stored in hit))

    @property
    def corrected(self) -> int:
        """The number of codewords whose flips the code corrected; 0 in an encoding without one."""
        return sum(flips.dropped for flips in self._decoded()) + self._count(CORRECTED)

    @property
    def detected(self) -> int:
        """The number of codewords with errors that the code detected and could not correct."""
        return self._count(DETECTED)

    @property
    def miscorrected(self) -> int:
        """The number of codewords that were read wrong without notice.

        Either the decoder took a wrong codeword for the stored one, or the code does not check the
        bits that flipped.
        """
        return self._count(MISCORRECTED)

    def _decoded(self) -> list[DecodedFlips]:
        decoded = (part.flips for part in self._stored if isinstance(part.flips, DecodedFlips))
        return [flips for flips in decoded if flips.has_codes]

    def _count(self, outcome: str) -> int:
        number = OUTCOMES.index(outcome)
        return sum(int((flips.codewords.outcome == number).sum()) for flips in self._decoded())

    @property
    def ber(self) -> float:
        """The realised bit error rate: flips divided by exposed bits; 0 if no bit was exposed yet.

        An activation counts each time that it is stored.
        """
        return self.flips / max(self.exposed_bits + self.activation_bits, 1)

    def counts(self, by: str = "tensor") -> dict[str, int]:
        """The number of flips by group, in descending order; groups without flips are left out.

        Args:
            by: ``"tensor"``, ``"layer"`` or ``"kind"``.

        Flips in activations are included only if they were logged.

        Raises:
            ValueError: another group.
        """
        if by not in _GROUPS:
            raise ValueError(f"by must be one of {', '.join(_GROUPS)}, got {short_repr(by)}")
        found: Counter[str] = Counter()
        for exposed, columns, _ in self.parts():
            for index, rows in rows_by_tensor(columns.tensor):
                found[_GROUPS[by](exposed[index])] += len(rows)
        return dict(found.most_common())

    def faults(self) -> NDArray[np.void]:
        """The flips as a structured array (flips,), in the order in which they were made.

        Fields: ``tensor`` (qualified name; for an activation ``layer:output[0]:call``), ``element``
        (row-major index), ``bit`` (of the stored word; 0 is the lowest), ``before`` and ``after``
        (the values before and after this flip, float64). A word with two flips has two rows; the
        second starts from the value that the first produced. Flips in activations are included only
        if `inject` was called with ``log_activations=True``.

        In an encoding with a code, these are the flips of stored bits before decoding: ``before``
        is the clean value of the element and ``after`` the value that is read, and the field
        ``outcome`` tells whether the codeword was ``"corrected"``, ``"detected"`` or
        ``"miscorrected"``. Bits of a check word follow those of the word; they are listed with the
        first element of their codeword.
        """
        parts = self.parts()
        names = [np.array([tensor.name for tensor in part.exposed]) for part in parts]
        longest = max((name.dtype.itemsize // 4 for name in names), default=1)
        fields = [("tensor", f"U{longest}"), ("element", "u8"), ("bit", "u1")]
        fields += [("before", "f8"), ("after", "f8")]
        if any(part.decoded is not None and part.decoded.has_codes for part in parts):
            fields.append(("outcome", f"U{max(map(len, OUTCOMES))}"))
        rows = np.zeros(sum(len(part.columns.bit) for part in parts), dtype=fields)
        at = 0
        for part, name in zip(parts, names, strict=True):
            columns = part.columns
            mine = rows[at : at + len(columns.bit)]
            mine["tensor"] = name[columns.tensor]
            mine["element"], mine["bit"] = columns.element, columns.bit
            for index, of_tensor in rows_by_tensor(columns.tensor):
                before, after = _values(part, index, of_tensor)
                mine["before"][of_tensor], mine["after"][of_tensor] = before, after
            if part.decoded is not None and part.decoded.has_codes:
                mine["outcome"] = np.array(OUTCOMES)[part.decoded.outcomes(columns.places)]
            at += len(mine)
        return rows

    def replay(self) -> Replay:
        """A fault that repeats the flips in stored tensors."""
        sites: list[tuple[str, int, int]] = []
        shapes: dict[str, tuple[int, ...]] = {}
        for part in self._stored:
            columns = part.flips.columns()
            for index, rows in rows_by_tensor(columns.tensor):
                exposed = part.exposed[index]
                shapes[exposed.name] = tuple(exposed.tensor.shape)
                elements, bits = columns.element[rows].tolist(), columns.bit[rows].tolist()
                sites.extend((exposed.name, e, b) for e, b in zip(elements, bits, strict=True))
        # A bit that two faults of one trial flip has its original value again.
        once = [site for site, times in Counter(sites).items() if times % 2]
        return Replay(tuple(FaultSite(*site) for site in once), shapes, self.encoding)

    def add(self, part: TensorFlips) -> None:
        """Adds flips that have been made or are about to be; `restore` undoes them."""
        self._stored.append(part)

    def restore(self) -> None:
        """Undoes the flips in stored tensors, from the last to the first."""
        undo_all(part.flips.restore for part in reversed(self._stored))

    def log_activation(self, exposed: Sequence[ExposedTensor], columns: FlipColumns) -> None:
        """Adds the flips of one activation, and of its scales, to `faults`."""
        self._activations.append(RecordedPart(exposed, columns))

    def parts(self) -> list[RecordedPart]:
        """The flips of each target, and of each activation that was logged."""
        stored = [
            RecordedPart(
                part.exposed,
                part.flips.columns(),
                part.flips if isinstance(part.flips, DecodedFlips) else None,
            )
            for part in self._stored
        ]
        return stored + self._activations


def _values(
    part: RecordedPart, index: int, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values before and after each flip of one tensor."""
    exposed, columns = part.exposed[index], part.columns
    element, bit = columns.element[rows], columns.bit[rows].astype(np.uint64)
    before = exposed.word.words_in(columns.before[rows], exposed.tensor.dtype, element)
    if part.decoded is not None:
        after = part.decoded.words_after(index, element, before)
    else:
        _chain_repeated(element, bit, before)
        after = before ^ (np.uint64(1) << bit)
    return exposed.word.values(before, element), exposed.word.values(after, element)


def _chain_repeated(
    element: NDArray[np.uint64], bit: NDArray[np.uint64], before: NDArray[np.uint64]
) -> None:
    """Makes the second flip of a word start from the stored word that the first one produced.

    The logged memory cannot be used: it may be a float to which the stored word was rounded.
    """
    order = np.argsort(element, kind="stable")
    for i in np.flatnonzero(element[order][1:] == element[order][:-1]):
        first, second = order[i], order[i + 1]
        before[second] = before[first] ^ (np.uint64(1) << bit[first])
