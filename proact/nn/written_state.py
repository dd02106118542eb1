"""State that a forward pass writes: find it once, and put it back after each forward pass.

Observers, spiking and recurrent layers, caches and counters write to buffers and plain attributes.
A trial must not depend on the trials before it, and an answer not on the batches before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from proact.nn.int8_layers import is_int8_parameter
from proact.nn.object_walk import is_opaque
from proact.nn.stored_guard import StoredGuard
from proact.ops.plain_memory import has_plain_memory

#: A buffer or attribute: the qualified name of its module, and its own name.
Place: TypeAlias = tuple[str, str]

_ATTRIBUTE = "_proact_written_state"
_ATOMS = (bool, int, float, complex, str, bytes, type(None))
_ABSENT = object()


def find_written_state(model: nn.Module, forward: Callable[[], object]) -> tuple[Place, ...]:
    """The buffers and attributes that ``forward`` writes; they are put back before returning.

    State in global variables and closures is not found.

    Args:
        forward: runs ``model`` on a batch.
    """
    with restored(model) as before:
        forward()
        return (*before.changed(), *before.added())


@contextmanager
def restored(model: nn.Module) -> Iterator[_Snapshot]:
    """Runs the block, and then puts back all buffers and attributes that it wrote.

    This copies all buffers; `preserved` is quicker if the written state is known.
    """
    before = _Snapshot(model, _places(model))
    try:
        yield before
    finally:
        added = before.added()
        before.restore()
        before.remove(added)


def keep_written_state(model: nn.Module, places: tuple[Place, ...]) -> None:
    """Records that `preserved` puts ``places`` back; copies and pickles of ``model`` keep this."""
    vars(model)[_ATTRIBUTE] = places


def written_state(model: nn.Module) -> tuple[Place, ...]:
    """The places that `preserved` puts back."""
    found: tuple[Place, ...] = vars(model).get(_ATTRIBUTE, ())
    return found


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Runs the block, and then puts the written state of ``model`` back, faults included."""
    places = written_state(model)
    if not places:
        yield
        return
    before = _Snapshot(model, places)
    try:
        yield
    finally:
        before.restore()


class _Snapshot:
    """The values of some places, with the content of all containers and tensors in them."""

    def __init__(self, model: nn.Module, places: list[Place] | tuple[Place, ...]) -> None:
        self._modules = dict(model.named_modules())
        self._registered = {id(module) for module in model.modules()}
        self._contents: dict[int, tuple[Any, Any]] = {}  # by id: the object and its content
        self._reached: dict[Place, set[int]] = {}
        self.slots: dict[Place, Any] = {}
        for place in places:
            value = _get(self._modules[place[0]], place[1])
            self.slots[place] = value
            self._reached[place] = set()
            self._add(value, self._reached[place])

    def changed(self) -> list[Place]:
        """The places whose value or content differs now."""
        differing = {key for key, (value, kept) in self._contents.items() if _differs(value, kept)}
        return [
            place
            for place, value in self.slots.items()
            if not _is_same(_get(self._modules[place[0]], place[1]), value)
            or not self._reached[place].isdisjoint(differing)
        ]

    def added(self) -> list[Place]:
        """The places that are new, if the snapshot is of all places."""
        return [place for place in _places_of(self._modules) if place not in self.slots]

    def remove(self, places: list[Place]) -> None:
        """Removes attributes or buffers."""
        for name, attribute in places:
            _put(self._modules[name], attribute, _ABSENT)

    def restore(self) -> None:
        """Puts all values and contents back, in the same objects."""
        for value, kept in self._contents.values():
            if _differs(value, kept):
                _write(value, kept)
        for place, value in self.slots.items():
            module = self._modules[place[0]]
            if _get(module, place[1]) is not value:
                _put(module, place[1], value)

    def _add(self, value: Any, reached: set[int]) -> None:
        pending = [value]
        while pending:
            each = pending.pop()
            if id(each) in reached or id(each) in self._registered or isinstance(each, _ATOMS):
                continue
            if is_int8_parameter(each):
                each = vars(each)  # from which the first forward pass takes tensors
            elif isinstance(each, nn.Parameter):
                continue  # faults are removed from parameters by their own rules
            reached.add(id(each))
            if id(each) not in self._contents:
                self._contents[id(each)] = (each, _content(each))
            pending += _children(each)


def _content(value: Any) -> Any:
    """A copy of what ``value`` holds itself; None for objects that hold nothing of their own."""
    if isinstance(value, Tensor):
        is_plain = has_plain_memory(value) and not value.is_nested
        return value.detach().clone() if is_plain else None
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, deque)):
        return list(value)
    if isinstance(value, set):
        return set(value)
    return dict(vars(value)) if _has_attributes(value) else None


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, deque)):
        return list(value)
    return list(vars(value).values()) if _has_attributes(value) else []


def _has_attributes(value: Any) -> bool:
    is_leaf = isinstance(value, (Tensor, type)) or callable(value) or is_opaque(type(value))
    return hasattr(value, "__dict__") and (not is_leaf or isinstance(value, nn.Module))


def _differs(value: Any, kept: Any) -> bool:
    if kept is None:
        return False
    if isinstance(value, Tensor):
        return value.shape != kept.shape or not _same_bits(value.detach(), kept)
    if isinstance(value, (np.ndarray, set)):
        return bool(np.any(value != kept))
    now = _content(value)
    if isinstance(kept, list):
        return len(now) != len(kept) or not all(map(_is_same, now, kept))
    return now.keys() != kept.keys() or not all(_is_same(now[key], kept[key]) for key in kept)


def _write(value: Any, kept: Any) -> None:
    if isinstance(value, Tensor):
        with torch.no_grad(), torch.inference_mode(value.is_inference()):
            if value.shape != kept.shape:
                value.detach().resize_(kept.shape)
            value.detach().copy_(kept)
    elif isinstance(value, np.ndarray):
        value[...] = kept
    elif isinstance(value, (dict, set)):
        value.clear()
        value.update(kept)
    elif isinstance(value, (list, deque)):
        value.clear()
        value.extend(kept)
    else:
        vars(value).clear()
        vars(value).update(kept)


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _ATOMS) and a == b)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.is_quantized:
        return torch.equal(a.int_repr(), b.int_repr())
    a, b = (each.contiguous().reshape(-1).view(torch.uint8) for each in (a, b))
    return torch.equal(a, b)


def _places(model: nn.Module) -> list[Place]:
    return _places_of(dict(model.named_modules()))


def _places_of(modules: dict[str, nn.Module]) -> list[Place]:
    # A guard counts what it repairs, and undoes what it writes.
    return [
        (name, attribute)
        for name, module in modules.items()
        if not isinstance(module, StoredGuard)
        for attribute in _attributes(module)
    ]


def _attributes(module: nn.Module) -> list[str]:
    """The names of a module's buffers, parameters and plain attributes."""
    plain = [
        name
        for name in vars(module)
        if name not in ("_parameters", "_buffers", "_modules", _ATTRIBUTE) and "_hooks" not in name
    ]
    members = [name for name, _ in (*module._parameters.items(), *module._buffers.items())]
    # TorchScript keeps its other attributes where Python does not see them.
    return members if isinstance(module, torch.jit.ScriptModule) else [*plain, *members]


def _get(module: nn.Module, attribute: str) -> Any:
    for members in (module._parameters, module._buffers):
        if attribute in members:
            return members[attribute]
    return vars(module).get(attribute, _ABSENT)


def _put(module: nn.Module, attribute: str, value: Any) -> None:
    for members in (module._parameters, module._buffers):
        if attribute in members:
            if value is _ABSENT:
                del members[attribute]
            else:
                members[attribute] = value
            return
    if value is _ABSENT:
        vars(module).pop(attribute, None)
    else:
        vars(module)[attribute] = value
