"""Digests of functions and modules, for identities that outlive a Python process.

Digests leave out addresses, line numbers and file names. The same code therefore keeps its digest
in a later process, and when other parts of its file change.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from proact.data.split import content
from proact.models.reached_by_name import held_by, names_in, reached_by_name
from proact.nn.tensor_inventory import named_scales_beside

_PLAIN = (int, float, complex, str, bytes, bool, type(None))
_CONSTANTS = (
    *_PLAIN, tuple, frozenset, Enum, Tensor, functools.partial, torch.jit.ScriptFunction,
)  # fmt: skip
_CONTAINERS = (list, set, dict, deque)
#: A comment in a graph of torch.jit that names a file and a line.
_PLACE = re.compile(r" # .*:\d+:\d+$", re.MULTILINE)
_DEEPEST = 4


def content_of(function: Callable[..., Any]) -> str:
    """Return a digest of a function: 16 hexadecimal digits of SHA-256.

    The digest covers the source text (the byte code of lambdas, and of functions without source),
    default arguments, closure variables, the arguments of a `functools.partial`, and the attributes
    of a callable object; of a module everything that `ModelDigest` covers. It covers the functions
    of the user's own code that the function calls by name too (`proact.models.reached_by_name`),
    and the constants that these functions read: numbers, texts, tuples, members of enumerations and
    tensors, of their file and of other modules, of classes and of objects.
    """
    if isinstance(function, nn.Module):
        return ModelDigest(function).of_content[:16]
    return hashlib.sha256(_describe(function, _DEEPEST).encode()).hexdigest()[:16]


def behaviour_of(model: nn.Module) -> str:
    """Return a SHA-256 digest of a model's forward methods, hooks and plain attributes."""
    parts = []
    # Reading source text takes long, and many modules have the same type.
    forwards: dict[type[nn.Module], str] = {}
    held = _kinds_in(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            parts += [name, str(getattr(module, "graph", ""))]
            continue
        kind = type(module)
        if kind not in forwards:
            forwards[kind] = _method(kind.forward, _DEEPEST, kind, held)
        parts += [name, kind.__qualname__, forwards[kind]]
        for attribute, value in sorted(vars(module).items()):
            if attribute.endswith(("_hooks", "_pre_hooks")) and isinstance(value, dict):
                parts += [_describe(hook, _DEEPEST) for hook in value.values()]
            elif not attribute.startswith("_") and attribute != "training":
                parts.append(f"{attribute} {_describe(value, _DEEPEST)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def described_tensors(model: nn.Module, left_out: Collection[str] = ()) -> Iterator[bytes]:
    """Yield the name, dtype and shape of every parameter, buffer and scale of a model that is not
    left out, and then its content."""
    for name, tensor in (
        *model.named_parameters(),
        *model.named_buffers(),
        *named_scales_beside(model),
    ):
        if name not in left_out:
            yield f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode()
            yield content(tensor)


class ModelDigest:
    """SHA-256 of a model.

    The digest covers the model's `repr`, every parameter and buffer, and the code of forward
    methods, hooks and plain attributes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._content = hashlib.sha256(f"{model!r}{behaviour_of(model)}".encode())
        for part in described_tensors(model):
            self._content.update(part)

    @property
    def of_content(self) -> str:
        """The digest without outputs, in hexadecimal."""
        return self._content.hexdigest()

    def with_outputs(self, outputs: str) -> str:
        """Return the digest that identifies a variant, in hexadecimal.

        It covers the model and the digest of its golden outputs.
        """
        digest = self._content.copy()
        digest.update(outputs.encode())
        return digest.hexdigest()


def _describe(value: Any, depth: int) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return hashlib.sha256(content(value)).hexdigest()
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.hasobject:
            return _describe(value.tolist(), depth)
        numbers = hashlib.sha256(value.tobytes()).hexdigest()
        return f"{value.dtype.descr} {value.shape} {numbers}"
    # A handle's number counts all hooks of its process; the hook itself is described instead.
    if depth == 0 or isinstance(value, RemovableHandle):
        return type(value).__qualname__
    return _collection(value, depth) or _compiled(value) or _callable(value, depth)


def _collection(value: Any, depth: int) -> str:
    """Describe a collection; the empty string for other values."""
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        parts = [_describe(item, depth - 1) for item in value]
        return f"[{', '.join(sorted(parts) if isinstance(value, (set, frozenset)) else parts)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_describe(v, depth - 1)}' for key, v in value.items())}}}"
    return ""


def _compiled(value: Any) -> str:
    """Describe a function of torch.jit; the empty string for other values."""
    if not isinstance(value, torch.jit.ScriptFunction):
        return ""
    return _PLACE.sub("", str(value.inlined_graph))


def _callable(value: Any, depth: int) -> str:
    """Describe a callable, or any other object by its type and attributes."""
    if isinstance(value, functools.partial):
        parts = [_describe(part, depth - 1) for part in (value.func, value.args, value.keywords)]
        return f"partial({', '.join(parts)})"
    if inspect.ismethod(value):
        owner = value.__self__ if isinstance(value.__self__, type) else type(value.__self__)
        function = _method(value.__func__, depth, owner, _kinds_in(value.__self__))
        return f"{function} of {_describe(value.__self__, depth - 1)}"
    if inspect.isfunction(value):
        return _function(value, depth)
    if isinstance(value, ModuleType):
        return value.__name__
    if inspect.isbuiltin(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    kind = type(value)
    own = getattr(kind, "__call__", None)  # noqa: B004
    held = vars(value) if hasattr(value, "__dict__") else _pickled(value)
    if isinstance(value, nn.Module):  # its tensors are too many to be described for every hook
        held = {name: item for name, item in held.items() if not name.startswith("_")}
    parts = [f"{name} {_describe(item, depth - 1)}" for name, item in sorted(held.items())]
    if inspect.isfunction(own):
        parts.append(_function(own, depth, kind, _kinds_in(value)))
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(parts)})"


def _pickled(value: Any) -> dict[str, Any]:
    """What the pickle of an object without a dictionary holds: a dtype, a range, one with slots."""
    try:
        parts = value.__reduce_ex__(4)
    except Exception:  # whatever an object raises that cannot be pickled, such as a lock
        return {}
    if isinstance(parts, str):
        return {"name": parts}
    return dict(zip(("function", "arguments", "state"), parts, strict=False))


def _kinds_in(value: Any) -> list[type]:
    """The classes of the objects that an object holds as attributes; of a module, at any depth."""
    holders = value.modules() if isinstance(value, nn.Module) else [value]
    kinds: dict[type, None] = {}
    for holder in holders:
        if holder is not value:
            kinds[type(holder)] = None
        kinds |= dict.fromkeys(map(type, getattr(holder, "__dict__", {}).values()))
    return list(kinds)


def _method(value: Any, depth: int, owner: type, held: Collection[type]) -> str:
    """Describe what a class holds as a method: mostly a function."""
    if inspect.isfunction(value):
        return _function(value, depth, owner, held)
    return _describe(value, depth)


def _function(
    function: Any, depth: int, owner: type | None = None, held: Collection[type] = ()
) -> str:
    """Describe a function, which may be a method of ``owner``, and the functions that it calls."""
    called, values = reached_by_name(function, owner, held)
    known = set(map(id, (function, *called)))
    # Functions that are called often keep results in containers of their own.
    parts = [_alone(each, depth, known, left_out=_CONTAINERS) for each in called]
    parts += [
        f"{name} {_describe(value, depth)}" for name, value in values if _is_constant(name, value)
    ]
    return "".join([_alone(function, depth, known), *parts])


def _alone(
    function: Any, depth: int, known: Collection[int], left_out: tuple[type, ...] = ()
) -> str:
    """Describe a function; of those that it holds, the ones described elsewhere by name only.

    Otherwise the description of functions with a decorator that call each other has no end.
    """
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = ""
    # The source text of a lambda is that of its line, which may hold several.
    if not text or function.__name__ == "<lambda>":
        text += _byte_code(function.__code__, depth)
    held = [
        *held_by(function),
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
    ]
    held += _global_constants(function)
    parts = [
        item.__qualname__ if id(item) in known else _describe(item, depth - 1)
        for item in held
        if not isinstance(item, left_out)
    ]
    return f"{function.__qualname__} {text} {parts}"


def _global_constants(function: Any) -> list[tuple[str, Any]]:
    """The names and values of the constants of its file that a function reads.

    A `functools.partial` is one, because of its arguments, and so is a function of torch.jit.
    Lists and other containers are left out: results are often collected in them.
    """
    found = {name: function.__globals__.get(name) for name in sorted(names_in(function.__code__))}
    return [(name, value) for name, value in found.items() if _is_constant(name, value)]


def _is_constant(name: str, value: Any) -> bool:
    return not name.startswith("__") and value is not None and isinstance(value, _CONSTANTS)


def _byte_code(code: CodeType, depth: int) -> str:
    """Describe instructions with their names and constants, those of inner functions too."""
    constants = [
        _byte_code(each, depth) if isinstance(each, CodeType) else _describe(each, depth)
        for each in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
