"""Exit codes of commands, and one-sentence error messages."""

from __future__ import annotations

import dis
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proact.cli.output import print_line
from proact.cli.streams import OutputError, checked_streams, flush_results, readable_size
from proact.errors import ProactError
from proact.interruption import GracefulShutdown, Terminated
from proact.shortages import shortage
from proact.text import short_repr, shortened

DONE, INTERNAL_ERROR, BAD_INPUT, TRIALS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
#: 128 plus the number of SIGPIPE, as for other programs whose reader has ended.
READER_GONE = 141

_ADVICE = {
    "memory": "there is not enough memory: free some, or use a smaller model, fewer images or "
    "fewer workers",
    "processes or threads": "no further process or thread can be started: end other programs, or "
    "use fewer workers",
    "open files": "too many files are open: raise the limit (ulimit -n), or use fewer workers",
}

_ROOT = str(Path(__file__).parents[1])


def exit_code(run: Callable[[], object], arguments: Sequence[str] | None) -> int:
    """Run a command; print one sentence on standard error for an exception.

    Returns:
        DONE, INTERNAL_ERROR, BAD_INPUT, INTERRUPTED or READER_GONE, or the integer that ``run``
        returns. After SIGTERM or SIGHUP, 128 plus the number of the signal.
    """
    with checked_streams(), readable_size():
        try:
            with GracefulShutdown(), _warnings_as_sentences():
                answer = run()
                flush_results()
        except KeyboardInterrupt:
            return INTERRUPTED
        except Terminated as end:
            return 128 + end.number
        except BaseException as error:  # the user's code may raise any
            return _code_of(error, sys.argv[1:] if arguments is None else arguments)
        return answer if isinstance(answer, int) else DONE


def _code_of(error: BaseException, arguments: Sequence[str]) -> int:
    """Return the exit code for an error, and print its sentence."""
    if type(error).__name__ == "Abort":  # typer raises it at the end of the input
        return INTERRUPTED
    if isinstance(error, OutputError) and error.is_reader_gone:
        return READER_GONE
    sentence = _usage_error(error) or _input_error(error)
    if sentence is not None:
        _print_error(f"error: {sentence}")
        return BAD_INPUT
    _print_error(f"error: {_internal_error(error, arguments)}")
    return INTERNAL_ERROR


def _usage_error(error: BaseException) -> str | None:
    """Explain an error of typer in one sentence; None for other errors."""
    explain = getattr(error, "format_message", None)
    if explain is None:
        return None
    option = getattr(error, "option_name", None)
    close = getattr(error, "possibilities", None)
    if close is not None and option is not None:
        hint = f"; did you mean {short_repr(next(iter(close)))}?" if close else ""
        return f"there is no option {short_repr(option)}{hint}"
    return shortened(" ".join(str(explain()).split()), 500)


def _input_error(error: BaseException) -> str | None:
    """Return the message of an error about the input or the machine; None for an internal error.

    proact refuses input by a ``raise`` statement. A ValueError or TypeError from an operation or a
    library is an internal error.
    """
    if isinstance(error, ProactError):
        return str(error)
    short_of = shortage(error)
    if short_of is not None:
        return f"{_ADVICE[short_of]} ({_in_one_line(error)})"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    if isinstance(error, (ValueError, TypeError)) and _is_raised_by_proact(error):
        return str(error)
    # Errors of the user's code are possible only if a command loaded it.
    user_code = sys.modules.get("proact.config.user_code")
    users = user_code.users_error(error) if user_code is not None else None
    if users is None and isinstance(error, SystemExit):
        return f"code that proact called has ended the program ({_in_one_line(error)})"
    return None if users is None else str(users)


def _is_raised_by_proact(error: BaseException) -> bool:
    frames = error.__traceback__
    if frames is None:
        return True
    while frames.tb_next is not None:
        frames = frames.tb_next
    code = frames.tb_frame.f_code
    is_raise = code.co_code[frames.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_raise and code.co_filename.startswith(_ROOT)


def _internal_error(error: BaseException, arguments: Sequence[str]) -> str:
    """Write a file for a bug report, and return a sentence that names it."""
    from proact import __version__

    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="proact-error-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write(f"proact {__version__}, Python {sys.version}\n")
            file.write(f"arguments: {list(arguments)}\n\n{text}")
        report, lines = file.name, ""
    except OSError:  # no folder of temporary files has room
        report, lines = "the lines below", f":\n{text}"
    return (
        f"this is an internal error of proact ({_in_one_line(error)}): please report it with "
        f"{report}, as CONTRIBUTING.md says under 'Reporting a bug'{lines}"
    )


def _in_one_line(error: BaseException) -> str:
    """The type and the message of an error, whose ``__str__`` may fail."""
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return shortened(text, 200)


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        print_warning(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def print_warning(text: str) -> None:
    """Print a warning on standard error."""
    _print_error(f"warning: {text}")


def _print_error(text: str) -> None:
    print_line(text, to_errors=True)
