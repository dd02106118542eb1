"""Networks and data from the command line: by name, or from a file of the user's own.

``--model`` and ``--data`` take a name, ``file.py:attribute`` or ``module:attribute``. The attribute
is the thing itself or a function without arguments that returns it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from torch import nn

from proact import data, models
from proact.data import Data
from proact.data.splits import parts_of
from proact.errors import ProactError, unknown

# A network and data in one file are one module: it runs once.
_files: dict[Path, ModuleType] = {}

OWN = "file.py:attribute or module:attribute of your own"


class UsersCodeError(ProactError):
    """What a user's file raised, with her traceback and none of our frames."""


def add_data_arguments(parser: argparse.ArgumentParser, default: str | None) -> None:
    """``--data``, ``--data-folder``, ``--download`` and ``--image-size``, for `dataset`."""
    add = parser.add_argument
    add(
        "--data",
        default=default,
        help=f"data set: {', '.join(data.names())}, or {OWN} (a proact.data.Data, a pair of "
        "tensors (images, labels) or a Dataset)",
    )
    add(
        "--data-folder",
        type=Path,
        help="where the data set's files are; by default PROACT_DATA, the places of Debian's "
        "packages and ~/.cache/proact",
    )
    add(
        "--download",
        action="store_true",
        help="fetch files that are missing, through torchvision, into the folder",
    )
    add("--image-size", type=int, default=224, help="of an imagefolder's images, in pixels")


def dataset(options: argparse.Namespace) -> Data:
    """What ``--data`` and its companions name; a pair or `Dataset` of the user's is cut into 65 %
    training, 15 % validation and 20 % test images."""
    if not is_own(options.data):
        return data.load(
            options.data,
            options.data_folder,
            download=options.download,
            image_size=options.image_size,
        )
    given = own(options.data)
    return given if isinstance(given, Data) else parts_of(given)


def is_own(text: str) -> bool:
    return ":" in text


def check_model_name(text: str) -> None:
    """ValueError unless ``text`` names a network or can be one of the user's own."""
    if not is_own(text) and text not in models.names():
        raise unknown("model", text, [*models.names(), OWN])


def network(text: str, num_classes: int, in_channels: int) -> nn.Module:
    """The named network, untrained, or the user's own as it is."""
    check_model_name(text)
    if not is_own(text):
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
        raise ValueError(f"your own code reads {OWN}, got {text!r}")
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
        return importlib.import_module(place)
    file = Path(place).resolve()
    if file in _files:
        return _files[file]
    if not file.is_file():
        raise ValueError(f"there is no file {place}")
    # As for a script: what lies beside the file can be imported from it.
    sys.path.insert(0, str(file.parent))
    # Pickles name its classes so; but a file called json.py must not become everybody's json.
    name = f"own_{file.stem}" if _is_known(file.stem, file) else file.stem
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
    _files[file] = module
    return module


def _is_known(name: str, file: Path) -> bool:
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


def _users(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        frames = _users_frames(error.__traceback__)
        if frames is None and not isinstance(error, SyntaxError):
            raise  # our own word on her argument
        text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
        raise UsersCodeError(f"{what} failed:\n{text}") from None


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """From the first frame that is neither ours nor the importer's; None where there is none."""
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file != __file__ and "importlib" not in file:
            return frames
        frames = frames.tb_next
    return None
