"""Replay: a fault that flips a recorded or hand-written list of bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proact.encodings import Word
from proact.encodings.coded_word import CodedWord
from proact.errors import ProactError
from proact.faults.fault import Fault, fault_from_json
from proact.files import read_regular
from proact.nn.tensor_inventory import StoredTensor
from proact.ops.plan import checked_integer
from proact.text import short_repr, shortened

_MOST_BYTES = 1 << 30
Shapes = Mapping[str, tuple[int, ...]] | tuple[tuple[str, tuple[int, ...]], ...]


class FaultSite(NamedTuple):
    """One bit in the stored word of one element of a tensor."""

    tensor: str  #: qualified name
    element: int  #: row-major index
    bit: int  #: 0 is the lowest


@dataclass(frozen=True)
class Replay(Fault):
    """Flips the listed bits. Seed and trial have no effect.

    Attributes:
        faults: distinct (tensor, element, bit) triples, or the structured array that
            `Record.faults` returns. Kept as an ordered tuple of `FaultSite`.
        shapes: shapes of the tensors by name; a model with other shapes is refused.
            `Record.replay` fills it in.
        encoding: name of the encoding to which the bits belong; None for any.

    Raises:
        ValueError, TypeError: an entry of another form, or a bit that is listed twice.
    """

    faults: tuple[FaultSite, ...]
    shapes: Shapes = ()
    encoding: str | None = None

    def __post_init__(self) -> None:
        sites = sorted(_site(entry) for entry in _entries(self.faults))
        for before, after in pairwise(sites):
            if before == after:
                raise ValueError(
                    f"faults must be distinct, and bit {after.bit} of element {after.element} of "
                    f"{after.tensor} is listed twice"
                )
        object.__setattr__(self, "faults", tuple(sites))
        object.__setattr__(self, "shapes", _checked_shapes(self.shapes))

    @classmethod
    def load(cls, path: str | Path) -> Replay:
        """Reads a file that `save` wrote.

        Raises:
            ProactError: the file cannot be read, or it holds something else.
        """
        try:
            text = read_regular(Path(path), "a list of faults", _MOST_BYTES).decode()
            fault = fault_from_json(text)
        except (ValueError, TypeError, KeyError) as error:
            reason = shortened(str(error), 500)
            raise ProactError(f"{path} is not a list of faults: {reason}") from None
        if not isinstance(fault, cls):
            raise ProactError(f"{path} holds a {type(fault).__name__}, expected a Replay")
        return fault

    def save(self, path: str | Path) -> None:
        """Writes the fault to a file as one line of JSON; an existing file is replaced.

        Raises:
            ProactError: the file cannot be written.
        """
        try:
            Path(path).write_text(self.to_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise ProactError(f"{path} cannot be written: {error.strerror}") from None

    def expected_ber(self, bits: Sequence[int]) -> float:
        return len(self.faults) / max(sum(bits), 1)

    def to_dict(self) -> dict[str, Any]:
        columns: dict[str, tuple[list[int], list[int]]] = {}
        for site in self.faults:
            elements, bits = columns.setdefault(site.tensor, ([], []))
            elements.append(site.element)
            bits.append(site.bit)
        return {
            "kind": "Replay",
            "faults": {name: {"element": e, "bit": b} for name, (e, b) in columns.items()},
            "shapes": {name: list(shape) for name, shape in dict(self.shapes).items()},
            "encoding": self.encoding,
        }

    @classmethod
    def _from_fields(cls, values: dict[str, Any]) -> Replay:
        listed = values.pop("faults", None)
        if isinstance(listed, Mapping):
            listed = [row for name, columns in listed.items() for row in _rows(name, columns)]
        if listed is None:
            raise ValueError("a Replay must have the field faults, got none of that name")
        return cls(listed, **values)

    def __str__(self) -> str:
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:12]
        return f"Replay({len(self.faults)} bits, {digest})"

    def check_fits(self, stored: Sequence[StoredTensor], words: Mapping[str, Word]) -> None:
        """ValueError if the model lacks a listed bit.

        Args:
            stored: the model's stored tensors.
            words: the stored form of each listed tensor, by name.
        """
        by_name = {name: tensor for tensor in stored for name in tensor.names}
        shapes = dict(self.shapes)
        seen: set[tuple[str, int, int]] = set()
        for name, element, bit in self.faults:
            if name not in by_name:
                raise ValueError(
                    f"the replay names {short_repr(name)}, which this model does not have: it was "
                    "made for another model"
                )
            tensor = by_name[name]
            shape = tuple(tensor.tensor.shape)
            if shapes.get(name, shape) != shape:
                raise ValueError(
                    f"{name} has the shape {shape}, and the replay was made for the shape "
                    f"{shapes[name]}"
                )
            word = words[tensor.name]
            if element >= tensor.tensor.numel() or bit >= word.bits:
                raise ValueError(
                    f"{name} has {tensor.tensor.numel()} elements of {word.bits} bits in "
                    f"{word.name}, and the replay has bit {bit} of element {element}"
                )
            if isinstance(word, CodedWord) and not word.has_bit(element, bit):
                first = element - element % word.fitted.code.words
                raise ValueError(
                    f"bit {bit} of element {element} of {name} is a check bit, which {word.name} "
                    f"has once for {word.fitted.code.words} elements: name the first, {first}"
                )
            if (tensor.name, element, bit) in seen:
                raise ValueError(
                    f"bit {bit} of element {element} of {name} is listed twice, under the names "
                    f"{' and '.join(tensor.names)} of one memory"
                )
            seen.add((tensor.name, element, bit))


def _rows(tensor: str, columns: Any) -> list[tuple[str, int, int]]:
    try:
        return [
            (tensor, element, bit)
            for element, bit in zip(columns["element"], columns["bit"], strict=True)
        ]
    except (TypeError, KeyError, ValueError):
        raise ValueError(
            f"the faults of {tensor} must be two lists of one length, element and bit, got "
            f"{short_repr(columns)}"
        ) from None


def _checked_shapes(shapes: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    try:
        return tuple((str(n), tuple(map(int, shape))) for n, shape in sorted(dict(shapes).items()))
    except (TypeError, ValueError):
        raise TypeError(
            f"shapes must map names of tensors to shapes, got {short_repr(shapes)}"
        ) from None


def _entries(faults: Any) -> Iterable[Any]:
    if isinstance(faults, np.ndarray):
        names = faults.dtype.names or ()
        if not {"tensor", "element", "bit"} <= set(names):
            raise TypeError(
                f"an array of faults must have the fields tensor, element and bit, got {names}"
            )
        return list(zip(*(faults[n].tolist() for n in ("tensor", "element", "bit")), strict=True))
    if isinstance(faults, (str, Mapping)) or not isinstance(faults, Iterable):
        raise TypeError(
            f"faults must be (tensor, element, bit) triples, got {type(faults).__name__} "
            f"{short_repr(faults)}"
        )
    return faults


def _site(entry: Any) -> FaultSite:
    if isinstance(entry, (str, bytes)) or not isinstance(entry, Sequence) or len(entry) != 3:
        raise TypeError(f"a fault must be a triple (tensor, element, bit), got {short_repr(entry)}")
    tensor, element, bit = entry
    if not isinstance(tensor, str):
        raise TypeError(f"the tensor of a fault must be a string, got {short_repr(tensor)}")
    return FaultSite(
        tensor, checked_integer("element", element, 1 << 32), checked_integer("bit", bit, 256)
    )
