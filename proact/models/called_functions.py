"""Find the functions of the user's own code that a function calls by name.

A function reaches others through the globals of its file and its closure variables, and through
attributes of these, of ``self`` and of the objects that ``self`` holds: functions in modules,
methods of classes and of objects. Functions of installed packages, of Python and of proact are left
out: they change with a version.
"""

from __future__ import annotations

import functools
import inspect
import os
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

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

#: A function, and the class whose attributes ``self`` has in it; None for a plain function.
_Owned = tuple[FunctionType, type | None]


def called_by(
    function: FunctionType, owner: type | None = None, held: Collection[type] = ()
) -> list[FunctionType]:
    """Return the functions of the user's own code that ``function`` reaches by name, each once.

    Args:
        function: the function, which is left out itself.
        owner: the class whose attributes ``self`` has in it; None for a plain function.
        held: the classes of the objects that ``self`` holds, in an order that does not depend on
            the process. A method of any of them counts as called where its name is read.

    Returns:
        The functions in an order that depends on names and on the order of ``held`` alone.
    """
    found: dict[tuple[int, type | None], FunctionType] = {(id(function), owner): function}
    waiting = [(function, owner)]
    while waiting:
        for each, its_owner in _named_in(*waiting.pop(0), held):
            if (id(each), its_owner) not in found:
                found[id(each), its_owner] = each
                waiting.append((each, its_owner))
    return list({id(each): each for each in found.values() if each is not function}.values())


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
) -> Iterator[_Owned]:
    names = sorted(names_in(function.__code__))
    seen: set[int] = set()
    if owner is not None:
        for kind in (owner, *held):
            yield from _methods(kind, names, names, seen)
    for value in [*map(function.__globals__.get, names), *held_by(function)]:
        yield from _reached(value, names, seen)


def _reached(value: Any, names: list[str], seen: set[int]) -> Iterator[_Owned]:
    """Yield a value, or what ``names`` stand for in it, if these are functions of the user's."""
    if isinstance(value, (ModuleType, type)):
        if id(value) in seen:
            return
        seen.add(id(value))
    if isinstance(value, ModuleType):
        for inner in map(vars(value).get, names):
            yield from _reached(inner, names, seen)
    elif isinstance(value, type):
        yield from _methods(value, [*_UNNAMED, *names], names, seen)
    else:
        yield from _own(value, None)
        yield from _methods(type(value), ["__call__", *names], names, seen)


def _methods(owner: type, wanted: list[str], names: list[str], seen: set[int]) -> Iterator[_Owned]:
    """Yield the methods ``wanted``, and what ``names`` stand for in classes inside ``owner``."""
    metaclass: type = type(owner)
    for name in wanted:
        # Static access: the attributes of an arbitrary class may be computed.
        kinds = [kind for kind in (*owner.__mro__, *metaclass.__mro__) if name in vars(kind)]
        # `super` reaches the methods that the first one replaces.
        for kind in kinds if "super" in names else kinds[:1]:
            value = vars(kind)[name]
            if isinstance(value, type):
                yield from _reached(value, names, seen)
            else:
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
    yield value, owner


def _is_own(value: Any) -> bool:
    if not isinstance(value, FunctionType):
        return False
    path = value.__code__.co_filename
    if path == "<string>":  # generated, as methods of a dataclass are
        path = str(value.__globals__.get("__file__", path))
    is_library = path.startswith((*_LIBRARIES, "<frozen ")) or any(p in path for p in _INSTALLED)
    return not is_library
