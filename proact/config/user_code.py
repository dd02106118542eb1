"""Load models and data by name, or from the user's code.

A text is a name, ``file.py:attribute`` or ``module:attribute``. File names are relative to the
working directory. The attribute is a model or data, or a function without arguments that returns
one. Definitions of a file are sent to worker processes by value, so workers do not need the file.
Modules that the file imports must be importable in the workers.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import cloudpickle
from torch import nn
from torch.utils.data import DataLoader

from proact import models
from proact.campaign import Metric
from proact.campaign.built_in_metrics import metric_named
from proact.config.names import USER_CODE, check_model_name, is_user_code
from proact.data import Data
from proact.errors import ProactError
from proact.interruption import INTERRUPTIONS
from proact.text import short_repr, shortened

# A file that defines both model and data is loaded, and runs, once.
_files: dict[Path, ModuleType] = {}
# The files of all user modules that were loaded, and those that define what was loaded from them.
_named: set[str] = set()
_OF_PROACT = str(Path(__file__).parents[1])

#: The arguments with which each option's function is called.
_ARGUMENTS = {
    "collate": ("items",),
    "forward": ("model", "batch"),
    "loss": ("logits", "targets"),
    "metric": ("outputs", "targets", "golden outputs"),
    "output": ("output",),
    "validation_metric": ("logits", "targets"),
}


class UsersCodeError(ProactError):
    """An error of the user's code, with a traceback of the user's frames only."""


def load_model_for(text: str, images: Data) -> nn.Module:
    """Load a model as `load_model` does; a named one has the classes and channels of the data."""
    if is_user_code(text):
        return load_model(text)
    return load_model(text, images.num_classes, images.train.images.shape[1])


def load_model(text: str, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Make a named model, untrained, or load a model of the user's code unchanged.

    Raises:
        ValueError, TypeError, ProactError: an unknown name, an attribute that is not a
            `torch.nn.Module`, or the errors of `load_attribute`.
    """
    check_model_name(text)
    if not is_user_code(text):
        return models.create(text, num_classes, in_channels)
    given = load_attribute(text)
    if not isinstance(given, nn.Module):
        raise TypeError(
            f"{shortened(text)}: expected a torch.nn.Module or a function that returns one, got "
            f"{type(given).__name__}"
        )
    return given


def load_metric(text: str) -> Metric:
    """Return the metric of a name, or load a `proact.campaign.Metric` of the user's code.

    A function (outputs, targets, golden outputs) becomes a metric in [0, 1] with the name of the
    function.

    Raises:
        ValueError, TypeError, ProactError: another attribute, or the errors of `load_attribute`.
    """
    if not is_user_code(text):
        return metric_named(text)
    given = _attribute(text)
    if isinstance(given, Metric):
        return given
    function = _checked_function(text, given, "metric", "a proact.campaign.Metric or ")
    return Metric(getattr(given, "__name__", type(given).__name__), function)


def load_function(option: str, value: Any) -> Any:
    """Load a function of the user's code if ``value`` names one; return other values unchanged.

    Args:
        option: the option that has the value: collate, forward, loss, output or validation_metric.
        value: the value of the option.

    Raises:
        ValueError, TypeError, ProactError: not a function of the option's arguments, or the errors
            of `load_attribute`.
    """
    if not isinstance(value, str) or not is_user_code(value):
        return value
    return _checked_function(value, _attribute(value), option)


def _checked_function(text: str, given: Any, option: str, others: str = "") -> Any:
    """Return ``given``, or a `_NamedCall` of it; TypeError unless it can be called with the
    arguments of an option."""
    arguments = _ARGUMENTS[option]
    expected = f"expected {others}a function of ({', '.join(arguments)})"
    _check_signature(given, arguments, f"{shortened(text)}: {expected}")
    return given if _is_python(given) else _NamedCall(text, given, expected)


def _check_signature(given: Any, arguments: tuple[str, ...], expected: str) -> None:
    if not callable(given):
        raise TypeError(f"{expected}, got {type(given).__name__}")
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # functions in C may tell nothing of their arguments
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{expected}, got a function of {shortened(str(signature))} ({error})"
        ) from None


def _is_python(function: Any) -> bool:
    """Whether calls of a function run in a frame of Python, by which `users_error` finds it."""
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004
    return any(map(inspect.isfunction, (function, getattr(function, "__func__", None), call)))


@dataclass(frozen=True)
class _NamedCall:
    """Calls a class or a function in C, and names it in errors.

    Attributes:
        text: the name of the function.
        function: the function.
        expected: completes the error.
    """

    text: str
    function: Callable[..., Any]
    expected: str

    def __call__(self, *arguments: Any) -> Any:
        return _called(self.text, functools.partial(self.function, *arguments), self.expected)


def load_attribute(text: str) -> Any:
    """Load ``file.py:attribute`` or ``module:attribute``; call it if it is a function.

    Raises:
        ValueError: the file, module or attribute does not exist.
        UsersCodeError: the file or the function raised an exception, or the function cannot be
            called without arguments.
    """
    value = _attribute(text)
    # A model is callable too, but must not be called; a class of models is called to make one.
    if isinstance(value, (nn.Module, Data, DataLoader)) or not callable(value):
        return value
    return _called(
        text, value, "expected an object or a function without arguments that returns one"
    )


def _called(text: str, function: Callable[[], Any], expected: str) -> Any:
    try:
        return function()
    except INTERRUPTIONS:
        raise
    except BaseException as error:
        frames = _users_frames(error.__traceback__)
        if frames is not None:
            raise _as_users(text, error, frames) from None
        # The call itself failed, or a function in C.
        reason = " ".join("".join(traceback.format_exception_only(error)).split())
        raise UsersCodeError(
            f"{shortened(text)}: {expected}, but its call failed ({shortened(reason, 200)})"
        ) from None


def _attribute(text: str) -> Any:
    place, _, attribute = text.rpartition(":")
    if not place or not attribute or not text.isprintable():
        raise ValueError(f"expected {USER_CODE}, got {short_repr(text)}")
    module = _users(place, lambda: _imported(place))
    if not hasattr(module, attribute):
        raise ValueError(f"{shortened(place)} has nothing named {short_repr(attribute)}")
    value = getattr(module, attribute)
    _name_definition(value)
    return value


def _name_definition(value: Any) -> None:
    """Note the file that defines a value, which may be another than the module's that holds it."""
    definition = value if hasattr(value, "__qualname__") else type(value)
    module = sys.modules.get(str(getattr(definition, "__module__", None)))
    _name(getattr(module, "__file__", None))
    # Code of a frozen module of Python, and code that was made at run time, has no file's name.
    _name(getattr(getattr(value, "__code__", None), "co_filename", None))


def _name(file: str | None) -> None:
    # An error of proact stays one if the user names a function of proact.
    if file is not None and not file.startswith(_OF_PROACT):
        _named.add(file)


def _imported(place: str) -> ModuleType:
    if not place.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")
        if _spec_is_missing(place):
            raise ValueError(f"there is no module {short_repr(place)} to import")
        module = importlib.import_module(place)
        _name(getattr(module, "__file__", None))
        return module
    file = Path(place).resolve()
    if file in _files:
        return _files[file]
    if not file.is_file():
        raise ValueError(f"there is no file {shortened(place)}")
    # As for a script, the file can import modules in its folder.
    sys.path.insert(0, str(file.parent))
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    # A worker cannot import the file by this name, so pickles must hold its definitions.
    cloudpickle.register_pickle_by_value(module)
    _files[file] = module
    _name(str(file))
    return module


def _module_name(file: Path) -> str:
    """Return the module name for ``file``.

    This is the stem of the file, unless it is not an identifier or another module has the name. For
    example, a file ``json.py`` must not replace the standard module ``json``.
    """
    stem = file.stem
    if stem.isidentifier() and not _is_taken(stem, file):
        return stem
    base = "own_" + re.sub(r"\W", "_", stem)
    names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
    return next(name for name in names if not _is_taken(name, file))


def _is_taken(name: str, file: Path) -> bool:
    """Whether a module other than ``file`` has the name ``name``, an identifier."""
    if name in sys.modules:
        return True
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() != file


def _spec_is_missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError as error:  # a parent package is missing
        return error.name is not None and name.startswith(error.name)
    except (ImportError, ValueError):  # not a module name
        return True


def users_error(error: BaseException) -> UsersCodeError | None:
    """Convert an error that a loaded user file raised; None for any other error.

    The message holds the traceback from the user's first frame on.
    """
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename not in _named:
        frames = frames.tb_next
    if frames is None:
        return None
    return _as_users(frames.tb_frame.f_code.co_filename, error, frames)


def _as_users(what: str, error: BaseException, frames: TracebackType | None) -> UsersCodeError:
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    return UsersCodeError(f"{what} failed:\n{text}")


def _users(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except INTERRUPTIONS:
        raise
    except BaseException as error:
        frames = _users_frames(error.__traceback__)
        if frames is None and not isinstance(error, SyntaxError):
            raise  # an error of proact about the user's argument
        raise _as_users(what, error, frames) from None


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """Skip the frames of this file and the importer; None if no frame is left."""
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file != __file__ and "importlib" not in file:
            return frames
        frames = frames.tb_next
    return None
