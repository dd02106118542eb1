"""The standard streams while a command runs, and the size of the terminal.

Results go to standard output, so a command fails if they cannot be written. Everything on standard
error is a message for a person: what cannot be written there is dropped, and changes nothing.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, cast

from proact.errors import ProactError

#: A pipe without a reader gives EINVAL on Windows.
_READER_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)
#: The fewest columns and lines in which a table can be read, and the most that make sense.
_FEWEST = {"COLUMNS": 20, "LINES": 1}
_MOST = 10_000


class OutputError(ProactError):
    """Standard output cannot be written.

    Attributes:
        is_reader_gone: whether the program at the other end of the pipe has ended, such as
            ``head``.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the results cannot be written to standard output: {error.strerror}")
        self.is_reader_gone = error.errno in _READER_GONE


@contextmanager
def checked_streams() -> Iterator[None]:
    """Check writes to the standard streams in the block.

    A write to standard output that fails raises `OutputError`; one to standard error does nothing.
    Characters that a stream's encoding lacks are written as escapes. A stream that was closed
    before the program started drops what is written.
    """
    _open_missing_descriptors()
    with ExitStack() as stack:
        for stream, redirect, on_error in (
            (sys.stdout, redirect_stdout, _raise_output_error),
            (sys.stderr, redirect_stderr, None),
        ):
            if stream is not None:
                checked = _CheckedStream(stream, on_error)
                stack.enter_context(_escapes(stream))
                stack.callback(checked.flush_or_discard)
                stack.enter_context(redirect(cast("Any", checked)))
        yield


@contextmanager
def readable_size() -> Iterator[None]:
    """Hide COLUMNS and LINES in the block if no table can be read in that size.

    rich shows nothing in a width of 0, and fails on some texts that are no numbers.
    """
    given = {name: os.environ[name] for name in _FEWEST if name in os.environ}
    hidden = {name: text for name, text in given.items() if not _is_readable(name, text)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_readable(name: str, text: str) -> bool:
    is_number = re.fullmatch("[0-9]{1,5}", text) is not None
    return is_number and _FEWEST[name] <= int(text) <= _MOST


def flush_results() -> None:
    """Write what standard output still holds back.

    Raises:
        OutputError: it cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


class _CheckedStream:
    """A text stream that hands errors of writing to ``on_error``, or drops them without one.

    After an error, every later write hands over the same error: typer and other callers suppress
    errors of some writes.
    """

    def __init__(self, stream: Any, on_error: Callable[[OSError], None] | None) -> None:
        self._stream, self._on_error = stream, on_error
        self._error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._checked(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._checked(self._stream.flush)

    def flush_or_discard(self) -> None:
        """Leave nothing that Python would write when the program ends."""
        with suppress(OutputError):
            self.flush()

    def _checked(self, operation: Callable[..., Any], *arguments: str) -> None:
        if self._error is None:
            try:
                operation(*arguments)
            except OSError as error:
                self._error = error
                self._discard()
        if self._error is not None and self._on_error is not None:
            self._on_error(self._error)

    def _discard(self) -> None:
        """Let what the stream holds back, and all that follows, go nowhere.

        Otherwise Python writes it again when the program ends, and fails again.
        """
        with suppress(OSError, ValueError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _raise_output_error(error: OSError) -> None:
    raise OutputError(error) from None


def _open_missing_descriptors() -> None:
    """Open the null device in place of standard streams that are closed.

    Otherwise the next file that the program opens, such as a store, gets the number of the stream,
    and a library that prints writes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                # The system gives the lowest free number, which is this one.
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextmanager
def _escapes(stream: Any) -> Iterator[None]:
    """Write characters that the stream's encoding lacks as escapes in the block."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        yield
        return
    before = stream.errors
    reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        reconfigure(errors=before)
