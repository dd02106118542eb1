"""Find, check and download the files of data sets."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from proact.errors import ProactError

VARIABLE = "PROACT_DATA"
_BLOCK = 1 << 20


def candidates(name: str, folder: Path | None, system: tuple[str, ...] = ()) -> list[Path]:
    """Return the folders to search, each followed by its sub-folder ``name``.

    These are ``folder`` alone if it is given; otherwise the folder of PROACT_DATA, the system's
    folders and the user's cache.
    """
    if folder is not None:
        roots = [folder]
    else:
        roots = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
        roots += [*map(Path, system), cache()]
    return [place for root in roots for place in (root, root / name)]


def cache() -> Path:
    """Return the user's folder for downloaded data sets."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "proact"


def find(places: list[Path], file_names: tuple[str, ...]) -> Path | None:
    """Return the first file named in ``file_names`` in the first folder that has one, or None.

    If there is no such file, but a folder, a FIFO or a device of that name, this is returned, and
    refused when it is opened.
    """
    found = [place / name for place in places for name in file_names]
    return next(filter(Path.is_file, found), next(filter(os.path.lexists, found), None))


def missing(name: str, places: list[Path], wanted: str, how: str) -> ProactError:
    """Make the error for missing files."""
    looked = ", ".join(str(place) for place in places)
    return ProactError(f"{name} needs {wanted}, which is not in {looked}: {how}")


def check_md5(path: Path, file: BinaryIO, expected: str, most: int) -> None:
    """Check the MD5 checksum of a file block by block, before it is unpacked into memory.

    MD5 detects damaged files only; it is used because the publishers state it. It does not protect
    against forged files, so the content of a file is never executed.

    Args:
        path: the file, for messages.
        file: the content, or the unpacked content, which is read to its end.
        expected: the checksum in hexadecimal.
        most: the largest number of bytes of an official file.

    Raises:
        ProactError: the checksum differs, or the content is larger.
    """
    digest = hashlib.md5(usedforsecurity=False)
    left = most
    for block in iter(lambda: file.read(_BLOCK), b""):
        digest.update(block)
        left -= len(block)
        if left < 0:
            raise ProactError(
                f"{path} is not the official file: it holds more than {most:,} bytes: download it "
                "again"
            )
    if digest.hexdigest() != expected:
        raise ProactError(
            f"{path} is not the official file: its MD5 is {digest.hexdigest()}, expected "
            f"{expected}: download it again"
        )


def download(name: str, torchvision_class: str, folder: Path | None) -> Path:
    """Download the official files through torchvision, and return their folder.

    Raises:
        ProactError: torchvision cannot be imported, or the download failed.
    """
    try:
        datasets: Any = importlib.import_module("torchvision.datasets")
    except Exception as error:  # a torchvision for another torch raises RuntimeError
        raise ProactError(
            f"{name} is downloaded through torchvision, which cannot be imported ({error}): pip "
            "install torchvision, or download the files yourself"
        ) from error
    target = cache() / name if folder is None else folder
    fetch: Callable[..., object] = getattr(datasets, torchvision_class)
    try:
        target.mkdir(parents=True, exist_ok=True)
        fetch(root=str(target), download=True)
    except (OSError, RuntimeError) as error:
        raise ProactError(f"{name} could not be downloaded to {target}: {error}") from error
    return target
