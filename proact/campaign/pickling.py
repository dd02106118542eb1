"""Pickle models for workers, with wrapped forwards and tensors that share memory."""

from __future__ import annotations

import io
import threading
import types
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from proact.nn.model_kinds import is_compiled_module
from proact.nn.tensor_views import is_view_like, parameter_of
from proact.nn.written_state import Place, keep_written_state, written_state
from proact.ops.plain_memory import has_plain_memory


def pickled(value: Any) -> bytes:
    """Pickle ``value`` so that every reference inside it is kept.

    Functions that cannot be imported are pickled by value, as cloudpickle does. Bound methods are
    pickled as a function and its object, because a lookup by name would find a forward that was
    wrapped on the instance. Tensors that share memory share it again, and parameters keep their
    class.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._bases: dict[int, Tensor] = {}  # the bytes of each storage
        self._are_bases: set[int] = set()

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduced: Any = NotImplemented
        if kind is types.MethodType:
            reduced = types.MethodType, (obj.__func__, obj.__self__)
        elif kind is weakref.ref and obj() is not None:
            reduced = weakref.ref, (obj(),)
        elif kind in _LOCKS:
            reduced = _LOCKS[kind], ()
        elif isinstance(obj, nn.Module):
            reduced = _reduced_module(obj)
        elif _is_plain_subclass(obj):
            reduced = _tensor, self._described(obj), vars(obj), None, None, _set_attributes
        elif is_view_like(obj) and id(obj) not in self._are_bases:
            reduced = _tensor, self._described(obj)
        return super().reducer_override(obj) if reduced is NotImplemented else reduced

    def _described(self, tensor: Tensor) -> tuple[Any, ...]:
        storage = tensor.untyped_storage()
        base = self._bases.get(storage._cdata)
        if base is None:
            with torch.inference_mode(tensor.is_inference()):
                base = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self._bases[storage._cdata] = base
            self._are_bases.add(id(base))
        place = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        kind = type(tensor) if isinstance(tensor, nn.Parameter) else None
        return base, tensor.dtype, *place, tensor.requires_grad and tensor.is_leaf, kind


def _is_plain_subclass(value: Any) -> bool:
    """Whether ``value`` is a parameter of a subclass, such as those of bitsandbytes, that torch
    would unpickle as a plain parameter."""
    kind = type(value)
    return (
        issubclass(kind, nn.Parameter)
        and kind is not nn.Parameter
        and kind.__reduce_ex__ is nn.Parameter.__reduce_ex__
        and has_plain_memory(value)
    )


def _set_attributes(parameter: nn.Parameter, attributes: dict[str, Any]) -> None:
    vars(parameter).update(attributes)


_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}


def _reduced_module(module: nn.Module) -> Any:
    if isinstance(module, torch.jit.ScriptModule):
        saved = io.BytesIO()
        with _without_deprecations():
            torch.jit.save(module, saved)
        return _loaded, (saved.getvalue(), written_state(module))
    if is_compiled_module(module):
        # Their own way of pickling loses hooks.
        return _new, (type(module),), module.__getstate__()
    if parametrize.is_parametrized(module):
        # Their own way of pickling raises an error; the class is pickled by value.
        kind = type(module)
        state = getattr(super(kind, module), "__getstate__", lambda: dict(vars(module)))
        return _new, (kind,), state()
    return NotImplemented


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hides that torch recommends torch.export, which a user of TorchScript knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _loaded(saved: bytes, written: tuple[Place, ...]) -> torch.jit.ScriptModule:
    with _without_deprecations():
        module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(saved))
    keep_written_state(module, written)
    return module


def _new(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(kind)


def _tensor(
    base: Tensor,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    kind: type[nn.Parameter] | None,
) -> Tensor:
    result = torch.empty(0, dtype=dtype, device=base.device)
    result.set_(base.untyped_storage(), offset, shape, strides)
    if kind is not None:
        return parameter_of(kind, result, requires_grad)
    return result.requires_grad_(requires_grad)
