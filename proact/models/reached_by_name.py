"""Find the functions and values of the user's own code that a function reaches by name.

A function reaches them through the globals of its file and its closure variables, and through
attributes of these, of ``self`` and of the objects that ``self`` holds: functions and values in
modules, methods and attributes of classes and of objects. Those of installed packages, of Python
and of proact are left out: they change with a version.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn

_INSTALLED = ("site-packages", "dist-packages")
_LIBRARIES = tuple(
    f"{folder}{os.sep}" for folder in (sysconfig.get_path("stdlib"), Path(__file__).parents[1])
)
#: What runs when an object of a class is made, or called.
_UNNAMED = ("__init__", "__post_init__", "__new__", "__call__", "forward")
#: Where objects that stand for a function hold it.
_HOLDERS = {
    property: "fget",
    staticmethod: "__func__",
    classmethod: "__func__",
    MethodType: "__func__",
    functools.partial: "func",
    functools.partialmethod: "func",
    functools.cached_property: "func",
}


class _Owned(NamedTuple):
    """A function, and the class whose attributes ``self`` has in it; None for a plain function."""

    function: FunctionType
    owner: type | None


class _Value(NamedTuple):
    """Any other attribute of a module, a class or an object."""

    name: str
    value: Any


class Reached(NamedTuple):
    """What a function reaches by name, in an order that does not depend on the process.

    Attributes:
        functions: each once, without the function itself.
        values: (name, value) of attributes of modules, classes and objects; some more than once.
    """

    functions: list[FunctionType]
    values: list[tuple[str, Any]]


def reached_by_name(
    function: FunctionType, owner: type | None = None, held: Collection[type] = ()
) -> Reached:
    """Return what ``function``, and the functions that it calls, reach of the user's own code.

    Args:
        function: the function, which is left out itself.
        owner: the class whose attributes ``self`` has in it; None for a plain function.
        held: the classes of the objects that ``self`` holds, in an order that does not depend on
            the process. A method of any of them counts as called where its name is read.
    """
    found: dict[tuple[int, type | None], FunctionType] = {(id(function), owner): function}
    values: list[tuple[str, Any]] = []
    waiting = [_Owned(function, owner)]
    while waiting:
        for each in _named_in(*waiting.pop(0), held):
            if isinstance(each, _Value):
                values.append((each.name, each.value))
                continue
            called, its_owner = each
            if (id(called), its_owner) not in found:
                found[id(called), its_owner] = called
                waiting.append(each)
    functions = {id(each): each for each in found.values() if each is not function}
    return Reached(list(functions.values()), values)


def names_in(code: CodeType) -> set[str]:
    """Return the names of globals and attributes in a function and the functions inside it."""
    inner = (names_in(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)


def held_by(function: FunctionType) -> list[Any]:
    """Return the values of a function's closure variables; None for one without a value yet."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:
            cells.append(None)
    return cells


def _named_in(
    function: FunctionType, owner: type | None, held: Collection[type]
) -> Iterator[_Owned | _Value]:
    names = sorted(names_in(function.__code__))
    seen: set[int] = set()
    if owner is not None:
        for kind in (owner, *held):
            yield from _in_class(kind, names, names, seen)
    for value in [*map(function.__globals__.get, names), *held_by(function)]:
        yield from _reached(value, names, seen)


def _reached(value: Any, names: list[str], seen: set[int]) -> Iterator[_Owned | _Value]:
    """Yield a value if it is a function of the user's, or what ``names`` stand for in it."""
    if isinstance(value, (ModuleType, type)):
        if id(value) in seen:
            return
        seen.add(id(value))
    if isinstance(value, ModuleType):
        for name in names:
            if name in vars(value):
                if _is_own_module(value):
                    yield _Value(name, vars(value)[name])
                yield from _reached(vars(value)[name], names, seen)
    elif isinstance(value, type):
        yield from _in_class(value, [*_UNNAMED, *names], names, seen)
    else:
        yield from _own(value, None)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and not isinstance(value, (FunctionType, nn.Module)):
            yield from (_Value(name, attributes[name]) for name in names if name in attributes)
        yield from _in_class(type(value), ["__call__", *names], names, seen)


def _in_class(
    owner: type, wanted: list[str], names: list[str], seen: set[int]
) -> Iterator[_Owned | _Value]:
    """Yield the attributes ``wanted``, and what ``names`` stand for in classes inside ``owner``."""
    metaclass: type = type(owner)
    for name in wanted:
        # Static access: the attributes of an arbitrary class may be computed.
        kinds = [kind for kind in (*owner.__mro__, *metaclass.__mro__) if name in vars(kind)]
        # `super` reaches the methods that the first one replaces.
        for kind in kinds if "super" in names else kinds[:1]:
            value = vars(kind)[name]
            if isinstance(value, type):
                yield from _reached(value, names, seen)
                continue
            if _is_own_module(sys.modules.get(kind.__module__)):
                yield _Value(name, value)
            yield from _own(value, owner)


def _own(value: Any, owner: type | None) -> Iterator[_Owned]:
    """Yield the function that ``value`` is or stands for, if it is one of the user's own.

    Decorators of libraries are passed over.
    """
    passed: list[Any] = []
    while not _is_own(value):
        # An object may claim any class and have any attribute, so its type is asked.
        place = next((_HOLDERS[kind] for kind in type(value).__mro__ if kind in _HOLDERS), None)
        if type(value) is MethodType:
            bound = value.__self__
            owner = bound if isinstance(bound, type) else type(bound)
        if place is None:
            if inspect.getattr_static(value, "__wrapped__", None) is None:
                return
            place = "__wrapped__"
        passed.append(value)
        try:
            value = getattr(value, place)
        except Exception:  # whatever the property of a proxy raises
            return
        if any(value is each for each in passed):
            return
    yield _Owned(value, owner)


def _is_own(value: Any) -> bool:
    if not isinstance(value, FunctionType):
        return False
    path = value.__code__.co_filename
    if path == "<string>":  # generated, as methods of a dataclass are
        path = str(value.__globals__.get("__file__", path))
    return not _is_library(path)


def _is_own_module(module: ModuleType | None) -> bool:
    if module is None:
        return False
    # Notebooks and the interactive prompt have no file.
    path = getattr(module, "__file__", None)
    return module.__name__ == "__main__" if path is None else not _is_library(path)


def _is_library(path: str) -> bool:
    return path.startswith((*_LIBRARIES, "<frozen ")) or any(part in path for part in _INSTALLED)
