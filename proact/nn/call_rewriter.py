"""Giving calls inside a module's forward modules of their own, on a module that stays what it is.

A module whose forward applies ReLU as a function, or one ReLU module several times, is traced by
torch.fx: its own forward alone, its children as they are. The traced forward, with the chosen calls
turned into calls of new children, becomes the forward of a subclass made for the instance: class
name, tensors, their names and all other attributes stay.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import linecache
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torch import fx, nn

from proact.nn.activations import Activation, activation_of_call, activation_of_module
from proact.nn.module_copy import copy_sharing_parameters

_numbers = itertools.count()


class TraceError(Exception):
    """The forward depends on the values that run through it, or does what fx cannot follow."""


def activation_positions(module: nn.Module) -> list[int]:
    """Where in its traced forward ``module`` calls an activation, in execution order."""
    copied = copy_sharing_parameters(module)  # tracing may add attributes
    return [
        position
        for position, node in enumerate(_trace(copied).nodes)
        if _activation(module, node) is not None
    ]


def rewrite_calls(module: nn.Module, children: Mapping[int, str]) -> None:
    """Changes ``module`` so that the operation at each position calls the child of that name, which
    the caller adds."""
    graph = _trace(module)
    nodes = list(graph.nodes)
    for position, name in children.items():
        node = nodes[position]
        with graph.inserting_before(node):
            replacement = graph.call_module(name, (_input(node),))
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    code = graph.python_code("self")
    _set_forward(module, _origin(module), _ForwardSource(code.src, _portable(code.globals)))


class _SingleForwardTracer(fx.Tracer):
    """Follows one forward and looks into no child."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(module: nn.Module) -> fx.Graph:
    if "forward" in vars(module) or isinstance(module, fx.GraphModule):
        raise TraceError("its forward was made at run time")
    before = dict(vars(module))
    try:
        graph = _SingleForwardTracer().trace(module)
    except Exception as error:
        # Tracing runs the user's forward on stand-ins for tensors: anything may be raised.
        raise TraceError(str(error)) from error
    for name, value in vars(module).items():
        # fx keeps the constants that it meets; whatever else changed was done by the forward.
        if not name.startswith("_tensor_constant") and before.get(name) is not value:
            raise TraceError(f"it assigns self.{name}")
    return graph


def _activation(module: nn.Module, node: fx.Node) -> Activation | None:
    if node.op == "call_module":
        return activation_of_module(module.get_submodule(str(node.target)))
    if node.op == "call_method":
        return activation_of_call(str(node.target), node.args, node.kwargs)
    if node.op == "call_function" and _is_of_torch(node.target):
        return activation_of_call(getattr(node.target, "__name__", ""), node.args, node.kwargs)
    return None


def _is_of_torch(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "torch").startswith("torch")


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs["input"]


@dataclass(frozen=True)
class _ForwardSource:
    """A forward as source, and the names in it: what it takes to make it again elsewhere. (Tracing
    again would find another forward where the module has changed meanwhile.)"""

    source: str
    names: dict[str, Any]


def _set_forward(module: nn.Module, origin: type[nn.Module], forward: _ForwardSource) -> None:
    module.__class__ = type(
        origin.__name__,
        (origin,),
        {
            "__module__": origin.__module__,
            "__qualname__": origin.__qualname__,
            "__doc__": origin.__doc__,
            "_proact_origin": (origin, forward),
            "__reduce_ex__": _reduce,
            "__deepcopy__": _deepcopy,
            "forward": _compiled(forward),
        },
    )


def _compiled(forward: _ForwardSource) -> Callable[..., Any]:
    file = f"<proact rewritten forward {next(_numbers)}>"
    # Tracebacks and compilers that read source find it here.
    linecache.cache[file] = (
        len(forward.source),
        None,
        forward.source.splitlines(True),
        file,
    )
    namespace: dict[str, Any] = {
        name: importlib.import_module(value.name) if isinstance(value, _ModuleName) else value
        for name, value in forward.names.items()
    }
    exec(compile(forward.source, file, "exec"), namespace)
    made: Callable[..., Any] = namespace["forward"]
    return made


class _ModuleName(NamedTuple):
    """Modules are not pickled; their names are."""

    name: str


def _portable(names: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _ModuleName(value.__name__) if isinstance(value, ModuleType) else value
        for name, value in names.items()
    }


def _origin(module: nn.Module) -> type[nn.Module]:
    """The class that the user wrote."""
    origin: type[nn.Module] = getattr(type(module), "_proact_origin", (type(module),))[0]
    return origin


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    result = type(self).__new__(type(self))
    memo[id(self)] = result
    result.__dict__ = copy.deepcopy(self.__dict__, memo)
    return result


def _reduce(self: Any, protocol: int) -> Any:
    # The class exists in this process alone.
    return _unpickled, self._proact_origin, self.__dict__


def _unpickled(origin: type[nn.Module], forward: _ForwardSource) -> nn.Module:
    module = origin.__new__(origin)
    _set_forward(module, origin, forward)
    return module
