"""Open tensors that wrap others, as quantisers and torch.distributed make them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


def inner_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields (qualified name, tensor) for the tensors that hold the numbers of ``tensor``.

    A wrapper subclass with ``__tensor_flatten__`` is opened, nested ones too; an inner tensor is
    named ``<name>.<attribute>``. Any other tensor is yielded as it is.
    """
    attributes = attributes_of(tensor)
    if not attributes:
        yield name, tensor
    for attribute in attributes:
        yield from inner_tensors(f"{name}.{attribute}", getattr(tensor, attribute))


def attributes_of(tensor: Tensor) -> list[str]:
    """The attributes in which a wrapper subclass keeps its inner tensors; empty for others."""
    if type(tensor).__module__ == "torch.nn.parameter" or not hasattr(tensor, "__tensor_flatten__"):
        return []
    attributes, _ = tensor.__tensor_flatten__()
    return [name for name in attributes if isinstance(getattr(tensor, name, None), Tensor)]
