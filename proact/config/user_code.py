"""Networks and data from a text: by name, or from a file of the user's own.

The text is a name, ``file.py:attribute`` or ``module:attribute``; files are looked for from the
working directory. The attribute is the thing itself or a function without arguments that returns
it. What a file defines is sent to worker processes by value, so that they do not need the file; the
modules that it imports must be importable there.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import cloudpickle
from torch import nn

from proact import data, models
from proact.config.names import USER_CODE, check_model_name, is_user_code
from proact.data import Data
from proact.data.dataset import parts_of
from proact.errors import ProactError

# A network and data in one file are one module: it runs once.
_files: dict[Path, ModuleType] = {}
# The files of all modules that a text named.
_named: set[str] = set()


class UsersCodeError(ProactError):
    """What a user's file raised, with her traceback and none of our frames."""


def dataset(
    text: str,
    folder: str | Path | None = None,
    *,
    download: bool = False,
    image_size: int = 224,
) -> Data:
    """The named data set (`proact.data.load` explains the other arguments), or the user's own: a
    pair or `Dataset` is cut into 65 % training, 15 % validation and 20 % test images."""
    if not is_user_code(text):
        return data.load(text, folder, download=download, image_size=image_size)
    given = own(text)
    return given if isinstance(given, Data) else parts_of(given)


def network(text: str, num_classes: int, in_channels: int) -> nn.Module:
    """The named network, untrained, or the user's own as it is."""
    check_model_name(text)
    if not is_user_code(text):
        return models.create(text, num_classes, in_channels)
    given = own(text)
    if not isinstance(given, nn.Module):
        raise TypeError(
            f"{text} should be a torch.nn.Module or a function that returns one, and is "
            f"{type(given).__name__}"
        )
    return given


def own(text: str) -> Any:
    """The attribute that ``file.py:attribute`` or ``module:attribute`` names.

    Raises:
        ValueError: no such file, module or attribute. UsersCodeError: the file, or the function
            that the attribute is, raised something.
    """
    place, _, attribute = text.rpartition(":")
    if not place or not attribute:
        raise ValueError(f"your own code reads {USER_CODE}, got {text!r}")
    module = _users(place, lambda: _imported(place))
    if not hasattr(module, attribute):
        raise ValueError(f"{place} has nothing named {attribute!r}")
    value = getattr(module, attribute)
    # A network is callable too, and a class of networks is one that is not made yet.
    if isinstance(value, (nn.Module, Data)) or not callable(value):
        return value
    return _users(text, value)


def _imported(place: str) -> ModuleType:
    if not place.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")
        if _spec_is_missing(place):
            raise ValueError(f"there is no module {place!r} to import")
        module = importlib.import_module(place)
        _named.add(str(getattr(module, "__file__", None)))
        return module
    file = Path(place).resolve()
    if file in _files:
        return _files[file]
    if not file.is_file():
        raise ValueError(f"there is no file {place}")
    # As for a script: what lies beside the file can be imported from it.
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
    # A worker cannot import the file under this name, so pickles hold the definitions themselves.
    cloudpickle.register_pickle_by_value(module)
    _files[file] = module
    _named.add(str(file))
    return module


def _module_name(file: Path) -> str:
    """The name under which ``file`` is loaded: its stem, unless another module has that name or
    ``import`` could not spell it. A file ``json.py`` must not replace the standard ``json``."""
    stem = file.stem
    if stem.isidentifier() and not _is_taken(stem, file):
        return stem
    base = "own_" + re.sub(r"\W", "_", stem)
    names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
    return next(name for name in names if not _is_taken(name, file))


def _is_taken(name: str, file: Path) -> bool:
    """Whether ``name``, an identifier, is that of a module other than ``file``."""
    if name in sys.modules:
        return True
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() != file


def _spec_is_missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError as error:  # a package on the way to it
        return error.name is not None and name.startswith(error.name)
    except (ImportError, ValueError):  # no name of a module at all
        return True


def users_error(error: BaseException) -> UsersCodeError | None:
    """The error as one of the user's code, with her traceback, where it came out of a file that was
    named; None for any other."""
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
    except (Exception, SystemExit) as error:
        frames = _users_frames(error.__traceback__)
        if frames is None and not isinstance(error, SyntaxError):
            raise  # our own word on her argument
        raise _as_users(what, error, frames) from None


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """From the first frame that is neither ours nor the importer's; None where there is none."""
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file != __file__ and "importlib" not in file:
            return frames
        frames = frames.tb_next
    return None
