"""What functions and modules do, as text to tell them apart by: for identities that outlive a
session.

Addresses, line numbers and file names are left out, so that the same program has the same content
tomorrow, also after other parts of its file changed.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from proact.data.dataset import content

_PLAIN = (int, float, complex, str, bytes, bool, type(None))
_DEEPEST = 4


def content_of(function: Callable[..., Any]) -> str:
    """A digest of a function's source (of its byte code, where there is none) and of what it holds:
    defaults, variables of the functions around it, arguments of a `functools.partial`, attributes
    of a callable object. What it calls is not looked into."""
    return hashlib.sha256(_told(function, _DEEPEST).encode()).hexdigest()[:16]


def behaviour_of(model: nn.Module) -> str:
    """The same of a network's forward methods, hooks and plain attributes."""
    told = []
    for name, module in model.named_modules():
        told += [name, type(module).__qualname__, _told(type(module).forward, _DEEPEST)]
        for attribute, value in sorted(vars(module).items()):
            if attribute.endswith(("_hooks", "_pre_hooks")) and isinstance(value, dict):
                told += [_told(hook, _DEEPEST) for hook in value.values()]
            elif not attribute.startswith("_") and attribute != "training":
                told.append(f"{attribute} {_told(value, _DEEPEST)}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _told(value: Any, depth: int) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return hashlib.sha256(content(value)).hexdigest()
    # A handle's number counts the hooks that its process has ever seen; the hook itself is told.
    if depth == 0 or isinstance(value, RemovableHandle):
        return type(value).__qualname__
    return _collection(value, depth) or _callable(value, depth)


def _collection(value: Any, depth: int) -> str:
    """Empty for anything else."""
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_told(item, depth - 1) for item in value]
        return f"[{', '.join(sorted(parts) if isinstance(value, (set, frozenset)) else parts)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_told(v, depth - 1)}' for key, v in value.items())}}}"
    return ""


def _callable(value: Any, depth: int) -> str:
    """Also of objects that are none."""
    if isinstance(value, functools.partial):
        parts = [_told(part, depth - 1) for part in (value.func, value.args, value.keywords)]
        return f"partial({', '.join(parts)})"
    if inspect.ismethod(value):
        return f"{_told(value.__func__, depth)} of {_told(value.__self__, depth - 1)}"
    if inspect.isfunction(value):
        return _function(value, depth)
    if inspect.isbuiltin(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    kind = type(value)
    own = getattr(kind, "__call__", None)  # noqa: B004
    is_held = hasattr(value, "__dict__") and not isinstance(value, nn.Module)
    held = vars(value) if is_held else {}
    parts = [f"{name} {_told(item, depth - 1)}" for name, item in sorted(held.items())]
    if inspect.isfunction(own):
        parts.append(_function(own, depth))
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(parts)})"


def _function(function: Any, depth: int) -> str:
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = f"{function.__code__.co_code.hex()} {function.__code__.co_names}"
        text += " ".join(repr(c) for c in function.__code__.co_consts if isinstance(c, _PLAIN))
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not bound yet
            cells.append(None)
    held = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return f"{function.__qualname__} {text} {[_told(item, depth - 1) for item in held]}"
