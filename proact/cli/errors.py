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
from proact.errors import ProactError
from proact.interruption import OrderlyEnd, Terminated
from proact.text import short_repr, shortened

DONE, INTERNAL_ERROR, BAD_INPUT, TRIALS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

_ROOT = str(Path(__file__).parents[1])


def exit_code(run: Callable[[], object], arguments: Sequence[str] | None) -> int:
    """Run a command; print one sentence on standard error for an exception.

    Returns:
        DONE, INTERNAL_ERROR, BAD_INPUT or INTERRUPTED, or the integer that ``run`` returns. After
        SIGTERM or SIGHUP, 128 plus the number of the signal.
    """
    try:
        with OrderlyEnd(), _warnings_as_sentences():
            answer = run()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated as end:
        return 128 + end.number
    except Exception as error:
        if type(error).__name__ == "Abort":  # typer raises it at the end of the input
            return INTERRUPTED
        sentence = _usage_error(error) or _input_error(error)
        if sentence is not None:
            _print_error(f"error: {sentence}")
            return BAD_INPUT
        given = sys.argv[1:] if arguments is None else arguments
        _print_error(f"error: {_internal_error(error, given)}")
        return INTERNAL_ERROR
    return answer if isinstance(answer, int) else DONE


def _usage_error(error: Exception) -> str | None:
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


def _input_error(error: Exception) -> str | None:
    """Return the message of an error about the input or the machine; None for an internal error.

    proact refuses input by a ``raise`` statement. A ValueError or TypeError from an operation or a
    library is an internal error.
    """
    if isinstance(error, ProactError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    if isinstance(error, (ValueError, TypeError)) and _is_raised_by_proact(error):
        return str(error)
    # Errors of the user's code are possible only if a command loaded it.
    user_code = sys.modules.get("proact.config.user_code")
    users = user_code.users_error(error) if user_code is not None else None
    return None if users is None else str(users)


def _is_raised_by_proact(error: Exception) -> bool:
    frames = error.__traceback__
    if frames is None:
        return True
    while frames.tb_next is not None:
        frames = frames.tb_next
    code = frames.tb_frame.f_code
    is_raise = code.co_code[frames.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_raise and code.co_filename.startswith(_ROOT)


def _internal_error(error: Exception, arguments: Sequence[str]) -> str:
    """Write a file for a bug report, and return a sentence that names it."""
    from proact import __version__

    named = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
    text = "".join(traceback.format_exception(error))
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
    return (
        f"this is an internal error of proact ({named}): please report it with {file.name}, as "
        "CONTRIBUTING.md says under 'Reporting a bug'"
    )


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
