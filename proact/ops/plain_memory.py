"""Plain memory: which tensors have it, and whether it still is where it was.

Native code and numpy write to addresses. Nothing here writes; every address that is written was
checked here in the same chain of calls, when a plan was made and again before each use.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.parameter import is_lazy

from proact import _native
from proact.errors import ProactError
from proact.ops._memory import extent

#: torch's C interface to tensors, from torch 2.10 on; None before.
DLPACK: Any = getattr(Tensor, "__dlpack_c_exchange_api__", None)


def lack_of_memory(tensor: Tensor) -> str | None:
    """What ``tensor`` is instead of a tensor with plain memory, as text; None if it has memory.

    Plain memory is an address and strides: no sparse, meta, fake or quantised tensor, no wrapper
    subclass, none that torch.func has wrapped, and none whose storage was freed.
    """
    kind = _unusual_kind(tensor)
    if kind is not None or tensor.numel() == 0:
        return kind
    try:
        begin, end = extent(tensor)
        storage = tensor.untyped_storage()
        first, size = storage.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError, ValueError):
        begin = end = first = size = 0
    if begin == 0 and type(tensor) not in (Tensor, nn.Parameter):
        return (
            f"a {type(tensor).__name__} without memory of its own or __tensor_flatten__, which "
            "would name its inner tensors: exclude it with where="
        )
    if begin < max(first, 1) or end > first + size:
        return "a tensor whose storage was freed or has shrunk"
    return None


def _unusual_kind(tensor: Tensor) -> str | None:
    """What a tensor is that has no address by its kind, or whose address holds other words."""
    kind = None
    if is_lazy(tensor):
        kind = "a parameter without a shape: run the model on one batch first"
    elif torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        kind = "a tensor inside a torch.func transform"
    elif isinstance(tensor, FakeTensor):
        kind = "a fake tensor"
    elif tensor.layout != torch.strided or tensor.is_meta:
        kind = f"a tensor of layout {tensor.layout} on {tensor.device}"
    elif tensor.is_quantized:
        kind = "a quantised tensor of torch: quantise with torchao or encoding='int8' instead"
    elif tensor.is_neg() or tensor.is_conj():
        kind = "a lazily negated or conjugated view: call resolve_neg() or resolve_conj()"
    return kind


def has_plain_memory(tensor: Tensor) -> bool:
    """Whether ``tensor`` has plain memory, see `lack_of_memory`."""
    return lack_of_memory(tensor) is None


def is_writable(tensor: Tensor) -> bool:
    """Whether the plain memory of ``tensor`` can be written; a read-only memory map cannot.

    The first and the last byte are tried, and no value changes. Memory of a GPU is always writable.
    """
    if tensor.device.type != "cpu" or tensor.numel() == 0:
        return True
    begin, end = extent(tensor)
    if _native.module is not None:
        writable: bool = _native.module.is_writable(begin, end - begin)
        return writable
    return _takes_a_byte(begin) and _takes_a_byte(end - 1)


def _takes_a_byte(address: int) -> bool:
    """Sends a byte through a pipe back to its place: the system checks both accesses."""
    reading, writing = os.pipe()
    try:
        byte = (ctypes.c_char * 1).from_address(address)
        os.write(writing, byte)
        return os.readv(reading, [byte]) == 1
    except OSError:
        return False
    finally:
        os.close(reading)
        os.close(writing)


def check_writable(name: str, tensor: Tensor) -> None:
    """ValueError if the plain memory of ``tensor`` cannot be written."""
    if not is_writable(tensor):
        raise ValueError(
            f"{name} is in memory that cannot be written, such as a read-only memory map: "
            "proact.faults.encode(model, ...) returns a copy that can be written"
        )


def checked_memory(name: str, tensor: Tensor) -> None:
    """ValueError if the memory of ``tensor`` cannot be faulted in place."""
    lack = lack_of_memory(tensor)
    if lack is not None:
        raise ValueError(f"{name} must have plain memory in which bits can be flipped, got {lack}")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} must be in CPU or CUDA memory, got a tensor on {tensor.device}")
    if tensor.data_ptr() % tensor.element_size() != 0:
        raise ValueError(
            f"{name} must begin at a multiple of its word size of {tensor.element_size()} bytes, "
            f"got the address {tensor.data_ptr():#x}"
        )
    if not tensor.is_contiguous():
        advice = (
            "each element needs memory of its own"
            if 0 in tensor.stride()
            else ("proact.faults.encode(model, ...) returns a copy with contiguous parameters")
        )
        raise ValueError(
            f"{name} must be contiguous, got shape {tuple(tensor.shape)} with strides "
            f"{tuple(tensor.stride())}: {advice}"
        )
    check_writable(name, tensor)


class MovedMemory(NamedTuple):
    """Memory of a tensor that is no longer where it was."""

    name: str  #: of the tensor
    before: int  #: the address of its first byte before
    size: int  #: in bytes
    now: int  #: the address of its first byte; 0 if it was freed or can no longer be written


class MemoryGuard:
    """The memory that tensors had when they were added, to see whether it is still theirs.

    A storage can move although its tensors stay the same objects (`torch.nn.Module.share_memory`,
    pickling for another process), and it can be freed (``untyped_storage().resize_(0)``).
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self.tensors: list[Tensor] = []
        self._extents: list[tuple[int, int]] = []
        #: The size of a tensor's storage now, and the size that its elements need.
        self._sizes: list[tuple[Callable[[], int], int]] = []
        self._watch: Any = None
        if _native.module is not None and DLPACK is not None:
            self._watch = _native.module.TensorWatch(DLPACK)

    def add(self, name: str, tensor: Tensor) -> None:
        """Adds a tensor with plain memory; ``name`` names it in errors."""
        begin, end = extent(tensor)
        storage = tensor.untyped_storage()
        needed = end - storage.data_ptr() if tensor.numel() else 0
        self._names.append(name)
        self.tensors.append(tensor)
        self._extents.append((begin, end))
        self._sizes.append((storage.nbytes, needed))
        if self._watch is not None:
            self._watch.add(tensor, storage.nbytes, needed)

    def in_place(self, wanted: Sequence[int] | None = None) -> bool:
        """Whether the tensors have the memory that they had when they were added.

        Args:
            wanted: the numbers of the tensors in the order in which they were added; None for all.
        """
        if not self.tensors:
            return True  # words that are drawn but not made have no memory
        numbers = range(len(self.tensors)) if wanted is None else wanted
        if self._watch is not None:
            found: bool = self._watch.in_place(numbers)
            return found
        return all(self._is_in_place(number) for number in numbers)

    def _is_in_place(self, number: int) -> bool:
        size, needed = self._sizes[number]
        return self.tensors[number].data_ptr() == self._extents[number][0] and size() >= needed

    def check(self) -> None:
        """ProactError that names a tensor if memory was moved or freed."""
        if not self.in_place():
            raise ProactError(
                f"the memory of {self._moves()[0].name} was moved or freed after faults in it were "
                "prepared: prepare them again"
            )

    def follow(self, log: Any, changed: Sequence[int] | None = None) -> list[str]:
        """Directs the restoring of a log to where the memory is now.

        Args:
            log: the log.
            changed: the numbers of the tensors with words in the log; None for all.

        Returns:
            The names of changed tensors whose memory is gone; the log leaves them out.
        """
        if self.in_place(changed):
            return []
        moves = self._moves()
        log.relocate([(move.before, move.size, move.now) for move in moves])
        names = self._names if changed is None else [self._names[number] for number in changed]
        return [move.name for move in moves if move.now == 0 and move.name in names]

    def _moves(self) -> list[MovedMemory]:
        moves = []
        for name, tensor, (begin, end) in zip(
            self._names, self.tensors, self._extents, strict=True
        ):
            is_usable = has_plain_memory(tensor) and is_writable(tensor)
            now = tensor.data_ptr() if is_usable else 0
            if now != begin:
                moves.append(MovedMemory(name, begin, end - begin, now))
        return moves


def model_watch(model: nn.Module) -> Any:
    """The native watch over a model's module tree and tensors; None if it cannot watch them.

    Its method ``matches(model)`` tells whether the model has the same modules by name, with tensors
    of the same names, places, shapes, strides and dtypes; ``tensors(model)`` lists them.
    """
    if _native.module is None or DLPACK is None:
        return None
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return None
    try:
        return _native.module.ModelWatch(DLPACK, model)
    except ValueError:  # sparse tensors, wrapper subclasses and the like
        return None


def refuse_lost(names: list[str]) -> None:
    """ProactError if there are tensors whose words could not be restored."""
    if names:
        raise ProactError(
            f"the memory of {names[0]} was freed or can no longer be written, so that its words "
            "were not restored: keep the tensors of a model in place while faults are injected"
        )
