"""Find the functions of the user's own code that a function calls by name.

A function reaches others through the globals of its file and its closure variables, and through
attributes of these and of ``self``: functions in modules, methods of classes and of objects.
Functions of installed packages, of Python and of proact are left out: they change with a version.
"""

from __future__ import annotations

import inspect
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_INSTALLED = ("site-packages", "dist-packages")
_LIBRARIES = tuple(
    f"{folder}{os.sep}" for folder in (sysconfig.get_path("stdlib"), Path(__file__).parents[1])
)
#: What runs when an object of a class is made, or called.
_UNNAMED = ("__init__", "__post_init__", "__new__", "__call__", "forward")


def called_by(function: FunctionType, owner: type | None = None) -> list[FunctionType]:
    """Return the functions of the user's own code that ``function`` reaches by name, each once.

    Args:
        function: the function, which is left out itself.
        owner: the class whose attributes ``self`` has in it; None for a plain function.

    Returns:
        The functions in an order that depends on names alone.
    """
    found: dict[tuple[int, type | None], FunctionType] = {(id(function), owner): function}
    waiting = [(function, owner)]
    while waiting:
        for each, its_owner in _named_in(*waiting.pop(0)):
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
    function: FunctionType, owner: type | None
) -> Iterator[tuple[FunctionType, type | None]]:
    names = sorted(names_in(function.__code__))
    if owner is not None:
        yield from _methods(owner, names)
    for value in [*map(function.__globals__.get, names), *held_by(function)]:
        yield from _reached(value, names, set())


def _reached(
    value: Any, names: list[str], seen: set[int]
) -> Iterator[tuple[FunctionType, type | None]]:
    """Yield a value, or what ``names`` stand for in it, if these are functions of the user's."""
    if isinstance(value, ModuleType):
        if id(value) not in seen:
            seen.add(id(value))
            for inner in map(vars(value).get, names):
                yield from _reached(inner, names, seen)
    elif isinstance(value, type):
        yield from _methods(value, [*_UNNAMED, *names])
    else:
        yield from _own(value, None)
        yield from _methods(type(value), ["__call__", *names])


def _methods(owner: type, names: list[str]) -> Iterator[tuple[FunctionType, type | None]]:
    for name in names:
        yield from _own(inspect.getattr_static(owner, name, None), owner)


def _own(value: Any, owner: type | None) -> Iterator[tuple[FunctionType, type | None]]:
    """Yield ``value``, without decorators of libraries, if it is a function of the user's own."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    # Static access: the attributes of an arbitrary object may be computed.
    while not _is_own(value) and inspect.getattr_static(value, "__wrapped__", None) is not None:
        value = value.__wrapped__
    if _is_own(value):
        yield value, owner


def _is_own(value: Any) -> bool:
    if not isinstance(value, FunctionType):
        return False
    path = value.__code__.co_filename
    if path == "<string>":  # generated, as methods of a dataclass are
        path = str(value.__globals__.get("__file__", path))
    is_library = path.startswith((*_LIBRARIES, "<frozen ")) or any(p in path for p in _INSTALLED)
    return not is_library
