"""Plain memory: which tensors have it, and whether it still is where it was.

Native code and numpy write to addresses. Nothing here writes; every address that is written was
checked here in the same chain of calls, when a plan was made and again before each use.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from proact import _native
from proact.errors import ProactError
from proact.ops._memory import extent
from proact.ops.tensor_kinds import (
    is_dispatched,
    is_functional,
    is_wrapper,
    takes_real_tensors,
    unusual_kind,
)

#: torch's C interface to tensors, from torch 2.10 on; None before.
DLPACK: Any = getattr(Tensor, "__dlpack_c_exchange_api__", None)


def lack_of_memory(tensor: Tensor) -> str | None:
    """What ``tensor`` is instead of a tensor with plain memory, as text; None if it has memory.

    Plain memory is an address and strides: no sparse, nested, meta, fake or quantised tensor, no
    wrapper subclass, no lazy view, none that torch.func has wrapped, and none whose storage was
    freed.
    """
    kind = unusual_kind(tensor)
    if kind is not None or lies_in_storage(tensor):
        return kind
    if is_wrapper(tensor):
        return (
            f"a {type(tensor).__name__} without memory of its own or __tensor_flatten__, which "
            "would name its inner tensors: exclude it with where="
        )
    return "a tensor whose storage was freed or has shrunk: pass one whose storage holds it"


def lies_in_storage(tensor: Tensor) -> bool:
    """Whether a strided tensor has an address and all its elements lie in its storage."""
    if (numel := tensor.numel()) == 0:
        return True
    try:
        if tensor.data_ptr() == 0:
            return False
        size = tensor.untyped_storage().nbytes()
        if tensor.is_contiguous():
            end = tensor.storage_offset() + numel
        else:
            steps = zip(tensor.stride(), tensor.shape, strict=True)
            end = tensor.storage_offset() + 1 + sum(step * (n - 1) for step, n in steps)
        return end * tensor.element_size() <= size
    except (RuntimeError, NotImplementedError, ValueError):
        return False


def is_plain_on_host(tensor: Tensor) -> bool:
    """Whether ``tensor`` has plain memory on the CPU by its class and dispatch keys alone: a
    shorter form of `lack_of_memory` for calls that take microseconds. False for subclasses."""
    return (
        (type(tensor) is Tensor or type(tensor) is nn.Parameter)
        and _dispatch_keys(tensor) in _PLAIN_KEYS
        and lies_in_storage(tensor)
    )


def _dispatch_keys(tensor: Tensor) -> int:
    keys: int = torch._C._dispatch_keys(tensor).raw_repr()
    return keys


def _keys_of_plain_tensors() -> frozenset[int]:
    found = []
    for is_inference in (False, True):
        with torch.inference_mode(is_inference):
            found.append(_dispatch_keys(torch.empty(0, device="cpu")))
    return frozenset(found)


#: The dispatch keys of plain tensors on the CPU, made in and outside inference mode. Lazy views,
#: nested and sparse tensors, and those that torch.func wraps have further ones.
_PLAIN_KEYS = _keys_of_plain_tensors()


def address_of(name: str, tensor: Tensor) -> int:
    """The address of the first element, for native code; 0 for a tensor without elements.

    Every address that native code gets comes from here, or from a tensor that `is_plain_on_host`.

    Raises:
        TypeError: ``tensor`` lacks plain memory; ``name`` names it.
    """
    if (lack := lack_of_memory(tensor)) is not None:
        raise TypeError(f"{name} must have plain memory, got {lack}")
    return tensor.data_ptr()


def check_operands(operands: Mapping[str, Tensor], written: Collection[str] = ()) -> None:
    """TypeError for a tensor that torch's dispatcher cannot give to an operator's kernel.

    The dispatcher turns wrapper subclasses, lazy views and tensors inside a transform into plain
    tensors, and asks for the shapes of fake and meta tensors.

    Args:
        operands: by the names of the operator's arguments.
        written: the names of those that it writes to.
    """
    lacks = {name: lack_of_memory(tensor) for name, tensor in operands.items()}
    for name, lack in lacks.items():
        if lack is None:
            continue
        tensor = operands[name]
        # Functionalisation refuses operators that write, whichever operand it has wrapped.
        is_written = name in written or (bool(written) and is_functional(tensor))
        if not is_dispatched(tensor, is_written):
            raise TypeError(f"{name} must have plain memory, got {lack}")
    fake = [each for each in operands.values() if isinstance(each, FakeTensor)]
    if fake and len(fake) < len(operands) and not takes_real_tensors(fake[0]):
        name = next(name for name, each in operands.items() if isinstance(each, FakeTensor))
        raise TypeError(f"{name} must have memory like the other tensors, got {lacks[name]}")


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
