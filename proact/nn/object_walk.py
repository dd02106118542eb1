"""Walk the Python objects that a model refers to: attributes, containers, hooks and closures."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from proact.nn.int8_layers import is_int8_parameter

#: Objects of these packages are opaque: they hold compilers, graphs, loggers and threads.
_OPAQUE = ("torch._", "torch.fx.", "torch.jit.", "logging.", "threading.")

_ATOMS = (type, type(None), bool, int, float, complex, str, bytes, types.CodeType, types.ModuleType)


@dataclass
class ObjectGraph:
    """The objects that can be reached from a model, without classes and Python modules.

    Attributes:
        objects: each object by its ``id``. The dictionary keeps them alive.
        owners: the qualified name of the module and the attribute from which an object was reached
            first, by the ``id`` of the object.
    """

    objects: dict[int, Any] = field(default_factory=dict)
    owners: dict[int, tuple[str, str]] = field(default_factory=dict)
    _referrers: dict[int, list[int]] = field(default_factory=dict)

    def add(self, referrer: Any, found: Any) -> bool:
        """Adds an object, and an edge to it; returns whether the object is new."""
        self._referrers.setdefault(id(found), []).append(id(referrer))
        if id(found) in self.objects:
            return False
        self.objects[id(found)] = found
        return True

    def that_reach(self, targets: Iterable[Any]) -> set[int]:
        """The ids of the objects that refer to one of ``targets``, directly or through others."""
        pending = [id(target) for target in targets]
        reached = set(pending)
        while pending:
            for referrer in self._referrers.get(pending.pop(), ()):
                if referrer not in reached:
                    reached.add(referrer)
                    pending.append(referrer)
        return reached


def walk(model: nn.Module) -> ObjectGraph:
    """The graph of the objects that ``model`` and its submodules refer to."""
    graph = ObjectGraph()
    names = {id(module): name for name, module in model.named_modules()}
    for module in model.modules():
        graph.add(module, module)
    pending: list[tuple[Any, tuple[str, str]]] = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            pending.append((value, (name, attribute)))
            if not _is_atom(value) and graph.add(module, value):
                graph.owners[id(value)] = (name, attribute)
    # Registered modules are the start of the walk, so each attribute belongs to its own module.
    expanded = set(names)
    while pending:
        value, owner = pending.pop()
        if id(value) in expanded or _is_atom(value):
            continue
        expanded.add(id(value))
        for found in referents(value):
            if graph.add(value, found):
                graph.owners[id(found)] = owner
            pending.append((found, owner))
    return graph


def referents(value: Any) -> Iterator[Any]:
    """The objects that ``value`` refers to directly, without atoms, classes and globals.

    A function refers to its closure, its default arguments, its attributes and the global variables
    that its code reads. Tensors refer to nothing, except that an 8-bit parameter of bitsandbytes
    refers to its words and scales.
    """
    kind = type(value)
    if is_int8_parameter(value):
        yield from (each for each in vars(value).values() if not _is_atom(each))
        return
    if issubclass(kind, Tensor) or is_opaque(kind):
        return
    if kind is types.FunctionType:
        found: Iterable[Any] = (
            value.__closure__,
            value.__defaults__,
            value.__kwdefaults__,
            value.__dict__,
            *global_values(value).values(),
        )
    else:
        found = gc.get_referents(value)
    yield from (each for each in found if not _is_atom(each))


def global_values(function: types.FunctionType) -> dict[str, Any]:
    """The global variables that the code of a function reads, by name.

    Those of functions in libraries are left out: they do not hold a user's model.
    """
    if (function.__module__ or "").partition(".")[0] in ("torch", "functools", "contextlib"):
        return {}
    names: set[str] = set()
    pending: list[types.CodeType] = [function.__code__]
    while pending:
        code = pending.pop()
        names.update(code.co_names)
        pending += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    held = function.__globals__
    found = {name: held[name] for name in sorted(names & held.keys())}
    return {name: value for name, value in found.items() if not _is_atom(value)}


def _is_atom(value: Any) -> bool:
    # Not isinstance, which asks a weak proxy for the class of its referent.
    return issubclass(type(value), _ATOMS)


def is_opaque(kind: type) -> bool:
    """Whether the objects of a class belong to torch's machinery, loggers or threads."""
    if issubclass(kind, nn.Module) or kind is types.FunctionType:
        return False
    return f"{kind.__module__}.".startswith(_OPAQUE) or kind in weakref.ProxyTypes
