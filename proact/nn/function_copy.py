"""Copy the functions that refer to a model, so that the copies refer to the model's copy.

`copy.deepcopy` shares functions. A forward that was wrapped on the instance, or a hook that is a
closure, would therefore go on computing with the modules of the original.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterable
from typing import Any

from proact.nn.object_walk import ObjectGraph, global_values


class FunctionCopies:
    """The copies of all functions of a graph that refer to a part of the model.

    Making them takes two steps, because functions and modules refer to each other: the constructor
    makes functions with empty cells and enters them into the memo of `copy.deepcopy`; after the
    model is copied, `fill` fills them.

    Args:
        graph: the objects that the model refers to.
        parts: the modules and tensors of the model.
        memo: the memo of `copy.deepcopy`.
    """

    def __init__(self, graph: ObjectGraph, parts: Iterable[Any], memo: dict[int, Any]) -> None:
        self._memo = memo
        self._reaching = graph.that_reach(parts)
        self._cells: dict[int, tuple[types.CellType, types.CellType]] = {}
        self._globals: dict[int, dict[str, Any]] = {}
        self._functions: list[tuple[types.FunctionType, types.FunctionType]] = []
        self._methods: list[tuple[types.MethodType, functools.partial[Any]]] = []
        found = [value for key, value in graph.objects.items() if key in self._reaching]
        for value in found:
            if type(value) is types.FunctionType:
                memo[id(value)] = self._shell(value)
        for value in found:
            # Others are copied by deepcopy, which keeps their function.
            if type(value) is types.MethodType and id(value.__func__) in memo:
                bound: functools.partial[Any] = functools.partial(memo[id(value.__func__)])
                self._methods.append((value, bound))
                memo[id(value)] = bound

    def fill(self) -> None:
        """Copies what the functions refer to; objects without a part of the model are shared."""
        for method, bound in self._methods:
            owner = copy.deepcopy(method.__self__, self._memo)
            bound.__setstate__((bound.func, (owner,), {}, None))  # type: ignore[attr-defined]
        for old, new in self._cells.values():
            try:
                new.cell_contents = self._copied(old.cell_contents)
            except ValueError:  # the cell is empty
                continue
        for function, shell in self._functions:
            defaults, named = function.__defaults__, function.__kwdefaults__
            shell.__defaults__ = defaults and tuple(map(self._copied, defaults))
            shell.__kwdefaults__ = named and {k: self._copied(v) for k, v in named.items()}
            shell.__dict__.update({k: self._copied(v) for k, v in vars(function).items()})
            # The compiler follows a wrapper only if it carries its own id.
            if shell.__dict__.get("_torchdynamo_wrapper_id") == id(function):
                shell.__dict__["_torchdynamo_wrapper_id"] = id(shell)
            if shell.__globals__ is not function.__globals__:
                for name, value in global_values(function).items():
                    shell.__globals__[name] = self._copied(value)

    def _copied(self, value: Any) -> Any:
        return copy.deepcopy(value, self._memo) if id(value) in self._reaching else value

    def _shell(self, function: types.FunctionType) -> types.FunctionType:
        cells = tuple(
            self._cells.setdefault(id(cell), (cell, types.CellType()))[1]
            for cell in function.__closure__ or ()
        )
        namespace = function.__globals__
        if any(id(value) in self._reaching for value in global_values(function).values()):
            namespace = self._globals.setdefault(id(namespace), dict(namespace))
        shell = types.FunctionType(function.__code__, namespace, function.__name__, None, cells)
        shell.__module__, shell.__qualname__ = function.__module__, function.__qualname__
        shell.__doc__, shell.__annotations__ = function.__doc__, function.__annotations__
        self._functions.append((function, shell))
        return shell
