"""Open files to read: regular files of limited size only.

A FIFO or a device in place of a file would block the program or never end, and a file may be far
larger than the memory. Both are refused before anything is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from proact.errors import ProactError
from proact.text import short_repr

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
# Windows has neither. O_NONBLOCK keeps the program from waiting for the writer of a FIFO.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path, expected: str, most: int) -> BinaryIO:
    """Open a regular file to read, without waiting.

    Args:
        path: the file; links are followed.
        expected: names the content in an error, such as ``"an experiment file"``.
        most: the largest size in bytes that is accepted.

    Raises:
        ProactError: there is no such file, it is a folder, FIFO, device or socket, it is larger, or
            it cannot be read.
    """
    try:
        # Opening a device may already do something, so look first.
        _check(path, os.stat(path), expected, most)
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            _check(path, os.fstat(descriptor), expected, most)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        raise ProactError(f"there is no file {path}: expected {expected}") from None
    except OSError as error:
        raise ProactError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ProactError(
            f"expected the name of {expected}, got {short_repr(str(path))}, which no file can have"
        ) from None


def read_regular(path: Path, expected: str, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes; see `open_regular` for the errors.

    A file that grows while it is read is refused too.
    """
    with open_regular(path, expected, most) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1)
        except OSError as error:
            raise ProactError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > size:
        raise ProactError(f"{path} grows while it is read: expected {expected} that is complete")
    return content


def refuse_special(path: Path, expected: str) -> None:
    """Raise ProactError for a folder, FIFO, device or socket; a file that is missing passes.

    Call it before opening a file for writing, which would wait for the reader of a FIFO.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # the caller creates the file, or fails with a message of its own
    _check_kind(path, mode, expected)


def _check(path: Path, status: os.stat_result, expected: str, most: int) -> None:
    _check_kind(path, status.st_mode, expected)
    if status.st_size > most:
        raise ProactError(
            f"{path} has {status.st_size:,} bytes: expected {expected} of at most {most:,} bytes"
        )


def _check_kind(path: Path, mode: int, expected: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise ProactError(f"{path} is {kind}: expected {expected}")
