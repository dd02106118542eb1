"""Follow a forward with torch.fx such that it reads every stored tensor whenever it runs.

A plain `torch.fx.Tracer` reads buffers, and tensors that are reached in another way than as an
attribute of their module, as they are during tracing: what the forward computes from them alone
becomes a constant. A fault in such a tensor would change the model and not its traced forward.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from proact.nn.stored_memory import StoredMemory

#: Operators that read only the shape, dtype and device of a tensor.
_VALUE_FREE = frozenset(
    f"aten::{name}"
    for kind in ("zeros", "ones", "empty", "full")
    for name in (f"new_{kind}", f"{kind}_like")
)

#: Methods that read values of a tensor past torch's dispatcher.
_PAST_DISPATCHER = frozenset({"tolist", "__dlpack__", "untyped_storage", "data_ptr"})


class TraceError(Exception):
    """The forward branches on values, or does something else that torch.fx cannot follow."""


class LiveTracer(fx.Tracer):
    """A tracer for which buffers are proxies, as parameters are; their shapes are fixed.

    Args:
        memory: the tensors that must be read whenever the graph runs.

    Raises:
        TraceError: in `trace`, where the forward turns the values of a stored tensor into a
            constant: by ``float(buffer)``, or by an operation on a tensor with the memory of
            a stored one that is not read as an attribute of its module.
    """

    def __init__(self, memory: StoredMemory) -> None:
        super().__init__()
        self.memory = memory

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        watch = _Watch(self.memory)
        with _WatchPastDispatcher(watch), _WatchDispatcher(watch):
            graph = super().trace(root, concrete_args)
        if watch.refused:  # the forward went on after the error
            raise TraceError(watch.refused)
        return graph

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if isinstance(attr_val, Tensor) and not isinstance(attr_val, nn.Parameter):
            names = (name for name, buffer in self.root.named_buffers() if buffer is attr_val)
            name = next(names, None)
            if name is not None and name not in parameter_proxy_cache:
                parameter_proxy_cache[name] = self.create_proxy(
                    "get_attr", name, (), {}, proxy_factory_fn=self._buffer_proxy(attr_val)
                )
            if name is not None:
                return parameter_proxy_cache[name]
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _buffer_proxy(self, buffer: Tensor) -> Callable[[fx.Node], fx.Proxy]:
        return lambda node: _BufferProxy(self, node, buffer)


class _BufferProxy(fx.Proxy):
    """Stands for a buffer. Its shape and device are known; its dtype changes with ``half()``."""

    def __init__(self, tracer: fx.Tracer, node: fx.Node, buffer: Tensor) -> None:
        super().__init__(node, tracer)
        self._buffer = buffer

    @property
    def shape(self) -> torch.Size:
        return self._buffer.shape

    @property
    def ndim(self) -> int:
        return self._buffer.ndim

    @property
    def device(self) -> torch.device:
        return self._buffer.device

    def size(self, dim: int | None = None) -> Any:
        return self._buffer.shape if dim is None else self._buffer.shape[dim]

    def dim(self) -> int:
        return self._buffer.dim()

    def numel(self) -> int:
        return self._buffer.numel()

    nelement = numel

    def __len__(self) -> int:
        return len(self._buffer)

    def __iter__(self) -> Iterator[fx.Proxy]:
        return (operator.getitem(self, number) for number in range(len(self._buffer)))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TraceError(f"it writes to elements of the buffer {self.node.target}")


def _refusing(what: str) -> Callable[..., Any]:
    def refuse(self: _BufferProxy, *_: Any) -> Any:
        raise TraceError(f"it {what} the buffer {self.node.target}")

    return refuse


for _method in ("float", "int", "index", "complex"):
    setattr(_BufferProxy, f"__{_method}__", _refusing("makes a Python number of"))
# A proxy would be replaced by the sum, and the buffer would stay as it is.
for _method in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    setattr(_BufferProxy, f"__i{_method}__", _refusing("assigns"))


class _Watch:
    """Refuses operations on stored memory that run while a forward is traced."""

    def __init__(self, memory: StoredMemory) -> None:
        self._memory = memory
        self.refused = ""

    def check(self, args: Any) -> None:
        for value in pytree.tree_leaves(args):
            names = self._memory.names_of(value) if isinstance(value, Tensor) else ()
            if names:
                self.refused = f"it reads {min(names)} in a way that fixes the values read"
                raise TraceError(self.refused)


class _WatchDispatcher(TorchDispatchMode):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch would import its compiler, which takes longer than the tracing.
        return "torch._dynamo" in sys.modules

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name not in _VALUE_FREE:
            self._watch.check((args, kwargs))
        return func(*args, **(kwargs or {}))


class _WatchPastDispatcher(TorchFunctionMode):
    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _PAST_DISPATCHER:
            self._watch.check(args)
        return func(*args, **(kwargs or {}))
