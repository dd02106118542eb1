"""Memory words that were overwritten, and that can be restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proact.encodings.base import Words, integers_of, signed_memory, unsigned_memory
from proact.errors import ProactError
from proact.ops.cuda_stream import FlipStream
from proact.ops.plain_memory import has_plain_memory, is_writable, lack_of_memory, refuse_lost

#: The elements of a GPU tensor that are read or written at once.
_ELEMENTS_AT_ONCE = 1 << 16


class _Overwritten(NamedTuple):
    name: str
    tensor: Tensor
    element: NDArray[np.uint64]
    memory: Words  #: the words before
    stream: FlipStream


class OverwrittenWords:
    """Memory words of any tensors on any device, with the words that they had before."""

    def __init__(self) -> None:
        self._done: list[_Overwritten] = []

    def write(
        self,
        name: str,
        tensor: Tensor,
        element: NDArray[np.uint64],
        before: Words,
        after: Words,
    ) -> None:
        """Writes words at elements of a tensor; logs the old ones first.

        Args:
            name: of the tensor, for errors.
            tensor: dense memory of any shape.
            element: row-major indices, each once, uint64 (n,).
            before, after: memory words, uint64 (n,).
        """
        self._done.append(_Overwritten(name, tensor, element, before, FlipStream(tensor.device)))
        _write(tensor, element, after)

    def of(self, tensor: Tensor) -> tuple[NDArray[np.uint64], Words]:
        """The elements of a tensor that were overwritten once, and their old words."""
        for done in self._done:
            if done.tensor is tensor:
                return done.element, done.memory
        return np.empty(0, np.uint64), np.empty(0, np.uint64)

    def restore(self) -> None:
        """Writes the old words back, even if the memory has changed since.

        Raises:
            ProactError: memory that was freed. All words elsewhere are restored.
        """
        lost = []
        for name, tensor, element, memory, stream in reversed(self._done):
            if has_plain_memory(tensor) and is_writable(tensor):
                with stream.ordered():
                    _write(tensor, element, memory)
            else:
                lost.append(name)
        refuse_lost(lost)


def rows_by_tensor(tensor: NDArray[np.uint32]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """The tensors that occur, each with its rows in their order."""
    order = np.argsort(tensor, kind="stable")
    numbers, begins = np.unique(tensor[order], return_index=True)
    for number, rows in zip(numbers, np.split(order, begins)[1:], strict=True):
        yield int(number), rows


def check_in_place(name: str, tensor: Tensor) -> None:
    """ProactError if the memory of a tensor was freed after the tensor was exposed."""
    lack = lack_of_memory(tensor)
    if lack is not None:
        raise ProactError(f"the memory of {name} can no longer be faulted: it is {lack}")


def memory_words(name: str, tensor: Tensor, element: NDArray[np.uint64]) -> Words:
    """The memory words at elements of a tensor, uint64 (n,)."""
    check_in_place(name, tensor)
    flat = integers_of(tensor.view(-1))
    if not flat.is_cuda:
        return unsigned_memory(flat.numpy()[element])
    words = np.empty(len(element), np.uint64)
    for part in _parts(len(element)):
        index = torch.from_numpy(element[part].astype(np.int64)).to(flat.device)
        words[part] = unsigned_memory(flat[index].cpu().numpy())
    return words


def _write(tensor: Tensor, element: NDArray[np.uint64], memory: Words) -> None:
    # `.data` has a version counter of its own: callers tell autograd of a change.
    flat = integers_of(tensor.data.view(-1))
    raw = signed_memory(memory, flat.element_size())
    if not flat.is_cuda:
        flat.numpy()[element] = raw  # torch refuses to write to inference tensors
        return
    with torch.inference_mode(flat.is_inference()):
        for part in _parts(len(element)):
            index = torch.from_numpy(element[part].astype(np.int64)).to(flat.device)
            flat[index] = torch.from_numpy(raw[part]).to(flat.device)


def _parts(elements: int) -> Iterator[slice]:
    """Parts of a list of elements, so that undoing takes little memory of a GPU."""
    for begin in range(0, elements, _ELEMENTS_AT_ONCE):
        yield slice(begin, begin + _ELEMENTS_AT_ONCE)
