"""Open tensors that wrap others, as quantisers and torch.distributed make them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from proact.nn.int8_layers import is_int8_parameter, row_scales


def inner_tensors(
    name: str, tensor: Tensor, layer: nn.Module | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yields (qualified name, tensor) for the tensors that hold the numbers of ``tensor``.

    A wrapper subclass with ``__tensor_flatten__`` is opened, nested ones too; an inner tensor is
    named ``<name>.<attribute>``. Any other tensor is yielded as it is, followed by the scales that
    the module ``layer`` keeps beside its numbers (`scales_beside`).
    """
    attributes = attributes_of(tensor)
    if not attributes:
        yield name, tensor
    for attribute in attributes:
        yield from inner_tensors(f"{name}.{attribute}", getattr(tensor, attribute))
    for attribute, scale in scales_beside(tensor, layer).items():
        yield f"{name}.{attribute}", scale


def scales_beside(tensor: Tensor, layer: nn.Module | None) -> dict[str, Tensor]:
    """The scales of a parameter of bitsandbytes, which are neither parameters nor buffers.

    The names are those of the ``state_dict()``. For a 4-bit parameter, ``absmax`` holds the scales,
    which may be quantised themselves, with ``nested_absmax`` and an offset. Tables of values are
    constants of the program and left out. For an 8-bit parameter, ``SCB`` holds the scales; without
    the module ``layer`` of which it is a parameter, they are not found. Empty for other tensors.
    """
    if is_int8_parameter(tensor):
        scales = None if layer is None else row_scales(layer, tensor)
        return {} if scales is None else {"SCB": scales}
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
