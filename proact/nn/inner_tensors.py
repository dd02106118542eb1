"""Open tensors that wrap others, as quantisers and torch.distributed make them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def inner_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields (qualified name, tensor) for the tensors that hold the numbers of ``tensor``.

    A wrapper subclass with ``__tensor_flatten__`` is opened, nested ones too; an inner tensor is
    named ``<name>.<attribute>``. Any other tensor is yielded as it is, followed by the scales that
    it keeps beside its numbers (`scales_beside`).
    """
    attributes = attributes_of(tensor)
    if not attributes:
        yield name, tensor
    for attribute in attributes:
        yield from inner_tensors(f"{name}.{attribute}", getattr(tensor, attribute))
    for attribute, scale in scales_beside(tensor).items():
        yield f"{name}.{attribute}", scale


def scales_beside(tensor: Tensor) -> dict[str, Tensor]:
    """The scales that a 4-bit parameter of bitsandbytes keeps in its quantisation state.

    The names are those of its ``state_dict()``: ``absmax`` holds the scales, which may be quantised
    themselves, with ``nested_absmax`` and an offset. Tables of values are constants of the program
    and left out. Empty for other tensors.
    """
    kind = type(tensor)
    if kind.__name__ != "Params4bit" or not kind.__module__.startswith("bitsandbytes."):
        return {}
    state: Any = getattr(tensor, "quant_state", None)
    if state is None:  # not quantised yet
        return {}
    found = {"absmax": state.absmax}
    if getattr(state, "state2", None) is not None:
        found |= {"nested_absmax": state.state2.absmax, "nested_offset": state.offset}
    return found


def attributes_of(tensor: Tensor) -> list[str]:
    """The attributes in which a wrapper subclass keeps its inner tensors; empty for others."""
    if type(tensor).__module__ == "torch.nn.parameter" or not hasattr(tensor, "__tensor_flatten__"):
        return []
    attributes, _ = tensor.__tensor_flatten__()
    return [name for name in attributes if isinstance(getattr(tensor, name, None), Tensor)]
