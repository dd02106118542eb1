"""Giving calls inside a module's forward modules of their own, on a module that stays what it is.

A module whose forward applies ReLU as a function, or one ReLU module several times, is traced by
torch.fx: its own forward alone, its children as they are. The traced forward, with the chosen calls
turned into calls of new children, becomes the forward of a subclass made for the instance: class
name, tensors, their names and all other attributes stay.
"""

from __future__ import annotations

import copy
import itertools
import linecache
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from proact.nn.activations import call_ceiling, module_ceiling

# Positions in the list of traced operations, and the children that take their places.
_Calls = dict[int, str]
_numbers = itertools.count()


class CannotTrace(Exception):  # noqa: N818
    """The forward depends on the values that run through it, or does what fx cannot follow."""


def activation_positions(module: nn.Module) -> list[int]:
    """Where in its traced forward ``module`` calls a ReLU, in execution order."""
    return [
        position
        for position, node in enumerate(_trace(module).nodes)
        if _node_ceiling(module, node) is not None
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
    _become(module, graph, dict(children))


class _OneForward(fx.Tracer):
    """Follows one forward and looks into no child."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(module: nn.Module) -> fx.Graph:
    try:
        return _OneForward().trace(module)
    except Exception as error:
        # Tracing runs the user's forward on stand-ins for tensors: anything may be raised.
        raise CannotTrace(str(error)) from error


def _node_ceiling(module: nn.Module, node: fx.Node) -> float | None:
    if node.op == "call_module":
        return module_ceiling(module.get_submodule(str(node.target)))
    if node.op == "call_method":
        return call_ceiling(str(node.target), node.args, node.kwargs)
    if node.op == "call_function" and _is_of_torch(node.target):
        return call_ceiling(getattr(node.target, "__name__", ""), node.args, node.kwargs)
    return None


def _is_of_torch(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "torch").startswith("torch")


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs["input"]


def _become(module: nn.Module, graph: fx.Graph, calls: _Calls) -> None:
    origin, history = _past(module)
    base = type(module)
    rewritten = type(
        base.__name__,
        (base,),
        {
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "_proact_past": (origin, [*history, calls]),
            "__reduce_ex__": _reduce,
            "__deepcopy__": _deepcopy,
            "forward": _compiled(graph),
        },
    )
    module.__class__ = rewritten


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    file = f"<proact rewritten forward {next(_numbers)}>"
    # Tracebacks and compilers that read source find it here.
    linecache.cache[file] = (len(code.src), None, code.src.splitlines(True), file)
    namespace = dict(code.globals)
    exec(compile(code.src, file, "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward


def _past(module: nn.Module) -> tuple[type[nn.Module], list[_Calls]]:
    """The class that the user wrote, and every rewriting since."""
    past: tuple[type[nn.Module], list[_Calls]]
    past = getattr(type(module), "_proact_past", (type(module), []))
    return past


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    result = type(self).__new__(type(self))
    memo[id(self)] = result
    result.__dict__ = copy.deepcopy(self.__dict__, memo)
    return result


def _reduce(self: nn.Module, protocol: int) -> Any:
    # The class exists in this process alone: another one traces again.
    origin, history = _past(self)
    return _rebuilt, (origin, history, self.__dict__)


def _rebuilt(origin: type[nn.Module], history: list[_Calls], state: dict[str, Any]) -> nn.Module:
    module = origin.__new__(origin)
    module.__dict__.update(state)
    for calls in history:
        rewrite_calls(module, calls)
    return module
