"""Rewrite a module's forward so that chosen activation calls become calls of child modules.

torch.fx traces the forward of one module and treats its children as leaves. The traced forward,
with the chosen calls replaced, becomes the forward of a subclass that is made for this instance.
The class name, tensors, their names and all other attributes stay. Arguments that are no tensors
keep the values of a watched call (see `call_binding`). Parameters and buffers are read in each call
(see `live_tracer`).
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
import linecache
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from proact.nn.activations import Activation, activation_of_call, activation_of_module
from proact.nn.call_binding import BoundArguments
from proact.nn.live_tracer import LiveTracer, TraceError
from proact.nn.module_copy import copy_sharing_parameters
from proact.nn.stored_memory import StoredMemory

_numbers = itertools.count()

#: What torch.fx returns as it is.
_PLAIN = (fx.Proxy, Tensor, bool, int, float, str, type(None))


def activation_positions(module: nn.Module, arguments: str, model: nn.Module) -> list[int]:
    """The positions of the activation calls among the nodes of the traced forward of ``module``.

    They are in execution order. Activations that the model brings along do not count.

    Args:
        module: untouched.
        arguments: describes the watched call, as `proact.nn.call_binding.described_call` gives it.
        model: contains the module. The forward may read its other tensors too.

    Raises:
        TraceError: torch.fx cannot follow the forward, or would make constants of stored tensors.
    """
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    others = [each for each in (*model.parameters(), *model.buffers()) if id(each) not in own]
    copied = copy_sharing_parameters(module, others)  # tracing may add attributes
    return [
        position
        for position, node in enumerate(_trace(copied, arguments, model).nodes)
        if _activation(module, node) is not None
    ]


def rewrite_calls(
    module: nn.Module, arguments: str, children: Mapping[int, str], model: nn.Module
) -> None:
    """Changes ``module`` so that the call at each position becomes a call of a child module.

    Args:
        module: changed in place. The caller adds the children.
        arguments, model: as for `activation_positions`.
        children: the name of the child for each position that `activation_positions` gave.

    Raises:
        TraceError: as `activation_positions`.
    """
    graph = _trace(module, arguments, model)
    nodes = list(graph.nodes)
    for position, name in children.items():
        node = nodes[position]
        with graph.inserting_before(node):
            replacement = graph.call_module(name, (_input(node),))
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    code = graph.python_code("self")
    _set_forward(module, _origin(module), _ForwardSource(code.src, _portable(code.globals)))


class _SingleForwardTracer(LiveTracer):
    """Traces one forward with bound arguments, and treats every child module as a leaf."""

    trace_asserts = True

    def __init__(self, arguments: str, memory: StoredMemory) -> None:
        super().__init__(memory)
        self._arguments = arguments
        self.bound: BoundArguments | None = None

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        place = type(self.root).__name__
        self.bound = BoundArguments(self, self._arguments, place)
        args, keywords = self.bound.of(root_fn)

        def followed(*given: Any) -> Any:
            return self._packed(root_fn(*given, **keywords))

        return followed, [self.root, *args]

    def _packed(self, output: Any) -> Any:
        """The output with a call of the constructor in place of each object, for torch.fx.

        Raises:
            TypeError: an object whose constructor is not known.
        """
        if isinstance(output, _PLAIN):
            return output
        if type(output) in (list, tuple):
            return type(output)(map(self._packed, output))
        if type(output) is dict:
            return {key: self._packed(value) for key, value in output.items()}
        if isinstance(output, tuple) and hasattr(output, "_fields"):
            return type(output)(*map(self._packed, output))
        if type(output) is OrderedDict:
            pairs = [(key, self._packed(value)) for key, value in output.items()]
            return self.create_proxy("call_function", OrderedDict, (pairs,), {})
        if dataclasses.is_dataclass(output):
            named = {f.name: getattr(output, f.name) for f in dataclasses.fields(output) if f.init}
        elif type(output) is SimpleNamespace:
            named = vars(output)
        else:
            raise TypeError(f"it returns an object of type {type(output).__name__}")
        fields = {name: self._packed(value) for name, value in named.items()}
        return self.create_proxy("call_function", type(output), (), fields)

    def create_arg(self, a: Any) -> Any:
        is_tensor = isinstance(a, Tensor) and not isinstance(a, fx.Proxy)
        if is_tensor and not self._is_attribute(a):
            names = self.memory.names_of(a)
            if names:  # a constant, from which `half` and `to` would separate the stored tensor
                raise self.refusal(f"it reads {min(names)} other than as an attribute of a module")
        return super().create_arg(a)

    def _is_attribute(self, tensor: Tensor) -> bool:
        own = (*self.root.parameters(), *self.root.buffers())
        return tensor in self.tensor_attrs or any(tensor is each for each in own)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if any(m is child for child in self.root.modules()):
            return super().call_module(m, forward, args, kwargs)
        return forward(*args, **kwargs)  # a module that the forward has just made


def _trace(module: nn.Module, arguments: str, model: nn.Module) -> fx.Graph:
    if "forward" in vars(module) or isinstance(module, fx.GraphModule):
        raise TraceError("its forward was created at run time")
    before = _attributes(module)
    tracer = _SingleForwardTracer(arguments, StoredMemory(module, model))
    try:
        graph = tracer.trace(module)
        if tracer.bound is not None:
            tracer.bound.repeat_changes(graph)
    except Exception as error:
        # Tracing runs the user's forward on proxies, so it can raise anything.
        raise TraceError(str(error)) from error
    for name, value in _attributes(module).items():
        # fx adds the constants that it meets; the forward made every other change.
        if not name.startswith("_tensor_constant") and before.get(name) is not value:
            raise TraceError(f"it assigns self.{name}")
    return graph


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), **module._parameters, **module._buffers, **module._modules}


def _activation(module: nn.Module, node: fx.Node) -> Activation | None:
    if node.op == "call_module":
        found = activation_of_module(module.get_submodule(str(node.target)))
        return None if found is not None and found.own else found
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
    """The source of a forward and the values of the names in it, from which it can be rebuilt.

    Another process cannot trace again instead: the module may have changed since.
    """

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
    # Tracebacks and compilers read the source from here.
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
    """The name of a Python module, in place of the module, which cannot be pickled."""

    name: str


def _portable(names: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _ModuleName(value.__name__) if isinstance(value, ModuleType) else value
        for name, value in names.items()
    }


def _origin(module: nn.Module) -> type[nn.Module]:
    """The user's class."""
    origin: type[nn.Module] = getattr(type(module), "_proact_origin", (type(module),))[0]
    return origin


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    result = type(self).__new__(type(self))
    memo[id(self)] = result
    result.__dict__ = copy.deepcopy(self.__dict__, memo)
    return result


def _reduce(self: Any, protocol: int) -> Any:
    # The subclass exists in this process only, so that pickles rebuild it.
    return _unpickled, self._proact_origin, self.__dict__


def _unpickled(origin: type[nn.Module], forward: _ForwardSource) -> nn.Module:
    module = origin.__new__(origin)
    _set_forward(module, origin, forward)
    return module
