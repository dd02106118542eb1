"""Copy a model: every module, hook and function of the copy refers to the copy alone.

`copy.deepcopy` stops at computed tensors, shares functions that are closures over modules, and
separates tensors that share memory. A campaign faults its copy of a model, so a copy that computed
with any memory of the original would be measured as immune.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from proact.nn.function_copy import FunctionCopies
from proact.nn.int8_layers import is_int8_parameter, refuse_unsettled, settle
from proact.nn.model_kinds import is_compiled_module, refuse_lazy
from proact.nn.object_walk import ObjectGraph, walk
from proact.nn.tensor_views import is_view_like, tensor_of_storage
from proact.text import short_repr

_NEW_LOCKS: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def copy_model(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that shares no memory with it and computes with its own parameters.

    Functions that refer to the model are copied too: wrapped forwards, hooks and other closures,
    and functions that read the model from a global variable. Tensors that share memory share it in
    the copy. Computed tensors are detached, since the next forward pass makes them again. Locks are
    new. A model compiled in place (``model.compile()``) is not compiled in the copy. A function
    ``extra_repr`` that replaces that of one module, as torchao sets it, is left out: it is only for
    printing. 8-bit layers of bitsandbytes are as after their first forward pass.

    Raises:
        ValueError: a layer without a shape, an attribute that cannot be copied, or one whose copy
            still refers to the original model; the message names it.
    """
    result = _copied(model, shared=[])
    settle(result)
    return result


def copy_sharing_parameters(model: nn.Module, others: Iterable[Tensor] = ()) -> nn.Module:
    """Like `copy_model`, but the parameters of the copy are those of ``model`` itself.

    Modules, hooks, plain attributes and buffers are copied, so that replacing a module in the copy,
    or a forward pass that writes to a buffer, leaves ``model`` as it was.

    Args:
        model: untouched.
        others: further tensors that plain attributes may refer to, and that the copy shares.

    Raises:
        ValueError: as `copy_model`, and an 8-bit layer of bitsandbytes before its first forward
            pass, which would move tensors out of the shared parameter.
    """
    refuse_unsettled(model)
    return _copied(model, shared=[*model.parameters(), *others])


def _copied(model: nn.Module, shared: list[Tensor]) -> nn.Module:
    refuse_lazy(model)
    graph = walk(model)
    _refuse_proxies(graph)
    parts = [*model.modules(), *model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    with torch.no_grad():
        _copy_tensors(graph, memo, shared)
        for value in graph.objects.values():
            if type(value) in _NEW_LOCKS:
                memo[id(value)] = _NEW_LOCKS[type(value)]()
        functions = FunctionCopies(graph, parts, memo)
        compiled = _CompiledCopies(model, memo)
        started = dict(memo)
        try:
            result = copy.deepcopy(model, memo)
            compiled.fill()
            functions.fill()
        except Exception as error:
            # Copying runs code of the user's classes, so it can raise anything.
            raise _not_copied(model, started, error) from error
    for module in result.modules():
        vars(module).pop("extra_repr", None)
    copied = walk(result)
    own = [value for key, value in copied.objects.items() if key not in graph.objects]
    _move_weak_references(own, {id(part): memo.get(id(part)) for part in parts})
    _refuse_references(copied, {id(part) for part in parts} - {id(part) for part in shared})
    return result


def _copy_tensors(graph: ObjectGraph, memo: dict[int, Any], shared: list[Tensor]) -> None:
    """Copies the tensors that deepcopy refuses, or separates from tensors with the same memory."""
    tensors = [value for value in graph.objects.values() if isinstance(value, Tensor)]
    by_storage: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        if is_view_like(tensor):
            by_storage.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    stay = {each.untyped_storage()._cdata for each in shared if is_view_like(each)}
    with_attributes: list[Tensor] = []
    for place, together in by_storage.items():
        is_shared = place in stay
        if len(together) < 2 and not is_shared:
            continue
        storage = together[0].untyped_storage()
        copied = storage if is_shared else _copied_storage(together, memo)
        for tensor in together:
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor_of_storage(tensor, copied)
                if is_int8_parameter(tensor):
                    with_attributes.append(tensor)
    for tensor in with_attributes:  # which refer to other tensors
        vars(memo[id(tensor)]).update(copy.deepcopy(vars(tensor), memo))
    for tensor in tensors:
        if id(tensor) in memo:
            continue
        if tensor.layout in _COMPRESSED and tensor.is_leaf:
            # torch's own way of copying asks these for a storage, which they lack.
            kept = tensor.detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(kept, tensor.requires_grad) if is_parameter else kept
        elif not tensor.is_leaf:
            memo[id(tensor)] = tensor.detach().clone()


def _copied_storage(together: list[Tensor], memo: dict[int, Any]) -> torch.UntypedStorage:
    """A copy of the storage that tensors share; one that fills it is copied by its own rule."""
    storage = together[0].untyped_storage()
    for tensor in together:
        is_whole = tensor.is_contiguous() and tensor.nbytes == storage.nbytes()
        if type(tensor) is nn.Parameter and is_whole:
            storage = copy.deepcopy(tensor, memo).untyped_storage()
            break
    else:
        storage = storage.clone()
    return storage


class _CompiledCopies:
    """Copies of compiled modules with their hooks, which their own way of copying loses."""

    def __init__(self, model: nn.Module, memo: dict[int, Any]) -> None:
        self._memo = memo
        self._pairs = [
            (module, object.__new__(type(module)))
            for module in model.modules()
            if is_compiled_module(module)
        ]
        memo.update({id(module): shell for module, shell in self._pairs})

    def fill(self) -> None:
        for module, shell in reversed(self._pairs):  # the inner ones first
            shell.__setstate__(copy.deepcopy(module.__getstate__(), self._memo))


def _not_copied(model: nn.Module, memo: dict[int, Any], error: Exception) -> ValueError:
    """The error that names the attribute that cannot be copied."""
    known = memo | {id(module): module for module in model.modules()}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value, dict(known))
            except Exception:
                return ValueError(
                    f"the model cannot be copied, because the attribute {short_repr(attribute)} of "
                    f"{_place(name)} is a {type(value).__name__}, which cannot be copied: remove "
                    "it before the call"
                )
    return ValueError(f"{type(model).__name__} cannot be copied: {error}")


def _refuse_proxies(graph: ObjectGraph) -> None:
    for key, value in graph.objects.items():
        if type(value) in weakref.ProxyTypes:
            raise ValueError(
                f"the model cannot be copied, because {_owner(graph, key)} holds a weak proxy, "
                "which cannot be copied: use a weakref.ref"
            )


def _move_weak_references(holders: list[Any], copies: dict[int, Any]) -> None:
    """Lets weak references to parts of the original refer to the same parts of the copy."""

    def moved(value: Any) -> Any:
        own = copies.get(id(value())) if type(value) is weakref.ref else None
        return value if own is None else weakref.ref(own)

    for holder in holders:
        if type(holder) is list:
            holder[:] = map(moved, holder)
            continue
        items = holder if type(holder) is dict else getattr(holder, "__dict__", {})
        items.update({key: moved(v) for key, v in items.items() if type(v) is weakref.ref})


def _refuse_references(copied: ObjectGraph, originals: set[int]) -> None:
    """Raises ValueError if the copy refers to a module or tensor of the original."""
    for key in copied.objects:
        if key in originals:
            raise ValueError(
                f"the model cannot be copied, because the copy of {_owner(copied, key)} still "
                "refers to the original model: remove the attribute before the call"
            )


def _owner(graph: ObjectGraph, key: int) -> str:
    name, attribute = graph.owners.get(key, ("", "?"))
    return f"the attribute {short_repr(attribute)} of {_place(name)}"


def _place(name: str) -> str:
    return repr(name) if name else "the model"
