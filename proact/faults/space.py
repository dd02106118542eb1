"""The fault space: the stored bits that a fault can hit."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

from torch import Tensor, nn

from proact.faults.encodings import Encoding, encoding_named, stored_tensors
from proact.ops.plan import checked_memory, stream_of


@dataclass(frozen=True)
class ExposedTensor:
    """One tensor of the fault space, its exposed bits, and the stream that draws its faults."""

    name: str
    tensor: Tensor
    mask: int
    stream: int

    @property
    def bits(self) -> int:
        """How many bits are exposed in all."""
        return self.tensor.numel() * self.mask.bit_count()


def fault_space(
    model: nn.Module,
    encoding: str | Encoding = "float32",
    where: str = "*",
    bits: str | int | None = None,
) -> list[ExposedTensor]:
    """The exposed tensors of ``model``: parameters and floating-point buffers that match ``where``.

    A tensor that is known by several names is one memory and appears once, under its first name.

    Raises:
        ValueError: a model without parameters, a pattern that matches none, an unknown bit field,
            memory that is not contiguous, not on the CPU or shared in part.
        TypeError: a dtype that the encoding cannot store.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"faults go into a torch.nn.Module, got {type(model).__name__}")
    encoding = encoding_named(encoding)
    mask = encoding.mask(bits)
    stored = [(name, tensor.detach()) for name, tensor in stored_tensors(model) if tensor.numel()]
    if not stored:
        raise ValueError(f"{type(model).__name__} has no parameters: there are no bits to flip")
    for name, tensor in stored:
        checked_memory(name, tensor)
        encoding.check(name, tensor)
    exposed = [
        ExposedTensor(name, tensor, mask, stream_of(name))
        for name, tensor in _distinct_memories(stored)
        if fnmatchcase(name, where)
    ]
    if not exposed:
        raise ValueError(
            f"the pattern {where!r} matches no parameter; the first of {len(stored)} is "
            f"{stored[0][0]!r}"
        )
    _refuse_shared_streams(exposed)
    return exposed


def _distinct_memories(stored: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    first_at: dict[tuple[int, int], str] = {}
    distinct = []
    for name, tensor in stored:
        begin = tensor.data_ptr()
        extent = (begin, begin + tensor.numel() * tensor.element_size())
        if extent not in first_at:
            first_at[extent] = name
            distinct.append((name, tensor))
    ordered = sorted(first_at)
    for before, after in pairwise(ordered):
        if after[0] < before[1]:
            raise ValueError(
                f"{first_at[before]} and {first_at[after]} share a part of their memory, so that "
                "their bits cannot be told apart"
            )
    return distinct


def _refuse_shared_streams(exposed: list[ExposedTensor]) -> None:
    names: dict[int, str] = {}
    for tensor in exposed:
        other = names.setdefault(tensor.stream, tensor.name)
        if other != tensor.name:
            raise ValueError(
                f"the names {other!r} and {tensor.name!r} have the same 48-bit hash and would get "
                "the same faults: rename one of them"
            )
