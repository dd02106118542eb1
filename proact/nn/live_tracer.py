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
        self._refused = ""

    def refusal(self, reason: str) -> TraceError:
        """The error to raise; `trace` raises it again if the forward catches it and goes on."""
        self._refused = reason
        return TraceError(reason)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with _WatchPastDispatcher(self), _WatchDispatcher(self):
            graph = super().trace(root, concrete_args)
        if self._refused:
            raise TraceError(self._refused)
        return graph

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _LiveProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        # A proxy of a buffer passes for a tensor.
        return a.node if type(a) is _BufferProxy else super().create_arg(a)

    def check_read(self, args: Any) -> None:
        """TraceError if an operation that runs during tracing reads the memory."""
        for value in pytree.tree_leaves(args):
            is_tensor = isinstance(value, Tensor) and not isinstance(value, fx.Proxy)
            names = self.memory.names_of(value) if is_tensor else ()
            if names:
                raise self.refusal(f"it reads {min(names)} in a way that fixes the values read")

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


class _LiveProxy(fx.Proxy):
    """Stands for a tensor, of which no Python number can be made."""

    tracer: LiveTracer

    def _refuse_number(self) -> Any:
        stored = self._stored_tensors_read()
        if not stored:  # as other proxies, because a forward may try a number first
            raise TypeError("it makes a Python number of a tensor or of its size")
        raise self.tracer.refusal(_number_of(stored))

    __float__ = __int__ = __complex__ = _refuse_number

    def __index__(self) -> int:
        # torch asks every argument for an index and goes on without one.
        raise TypeError(_number_of(self._stored_tensors_read() or ["a tensor"]))

    def _stored_tensors_read(self) -> list[str]:
        read, pending = {self.node}, [self.node]
        while pending:
            new = set(pending.pop().all_input_nodes) - read
            read |= new
            pending.extend(new)
        return sorted(str(node.target) for node in read if node.op == "get_attr")


def _number_of(read: list[str]) -> str:
    return f"it makes a Python number of {', '.join(read)}, which would never change"


class _BufferProxy(_LiveProxy):
    """Stands for a buffer. Its shape and device are known; its dtype changes with ``half()``."""

    def __init__(self, tracer: LiveTracer, node: fx.Node, buffer: Tensor) -> None:
        super().__init__(node, tracer)
        self._buffer = buffer

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # A forward may ask whether its buffer is a tensor or a number.
        return Tensor

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

    def _refuse_assignment(self, *_: Any) -> Any:
        # The graph would have a new tensor, and the buffer would stay as it is.
        raise self.tracer.refusal(f"it assigns the buffer {self.node.target} or elements of it")

    __setitem__ = __iadd__ = __isub__ = __imul__ = __itruediv__ = _refuse_assignment
    __ifloordiv__ = __imod__ = __ipow__ = __iand__ = __ior__ = __ixor__ = _refuse_assignment


class _WatchDispatcher(TorchDispatchMode):
    def __init__(self, tracer: LiveTracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch would import its compiler, which takes longer than the tracing.
        return "torch._dynamo" in sys.modules

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name not in _VALUE_FREE:
            self._tracer.check_read((args, kwargs))
        return func(*args, **(kwargs or {}))


class _WatchPastDispatcher(TorchFunctionMode):
    def __init__(self, tracer: LiveTracer) -> None:
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _PAST_DISPATCHER:
            self._tracer.check_read(args)
        return func(*args, **(kwargs or {}))
