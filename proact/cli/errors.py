"""How a command ends: its exit code, and the one sentence that explains it."""

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

from proact.errors import ProactError

DONE, FAULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_ROOT = str(Path(__file__).parents[1])


def exit_code(run: Callable[[], object], arguments: Sequence[str] | None) -> int:
    """Runs a command and turns what it raises into a sentence on standard error and a code."""
    try:
        with _warnings_as_sentences():
            answer = run()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "Abort":  # typer's, at the end of input
            return INTERRUPTED
        sentence = _usage(error) or _bad_input(error)
        if sentence is not None:
            _say(f"error: {sentence}")
            return BAD_INPUT
        _say(f"error: {_fault(error, sys.argv[1:] if arguments is None else arguments)}")
        return FAULT
    return answer if isinstance(answer, int) else DONE


def _usage(error: Exception) -> str | None:
    """A sentence for what typer does not understand; None for anything else."""
    explain = getattr(error, "format_message", None)
    if explain is None:
        return None
    option = getattr(error, "option_name", None)
    close = getattr(error, "possibilities", None)
    if close is not None and option is not None:
        hint = f"; did you mean {next(iter(close))!r}?" if close else ""
        return f"there is no option {option!r}{hint}"
    return " ".join(str(explain()).split())


def _bad_input(error: Exception) -> str | None:
    """What the error says, where it is about the input or the machine; None for a fault of ours.

    Rooms refuse input by raising ValueError or TypeError themselves. The same from anywhere else,
    an operation or a library, is nothing that anybody meant to say.
    """
    if isinstance(error, ProactError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    if isinstance(error, (ValueError, TypeError)) and _is_raised_by_us(error):
        return str(error)
    # Nobody's code but proact's runs where none of the user's was loaded.
    own = sys.modules.get("proact.config.user_code")
    users = own.users_error(error) if own is not None else None
    return None if users is None else str(users)


def _is_raised_by_us(error: Exception) -> bool:
    frames = error.__traceback__
    if frames is None:
        return True
    while frames.tb_next is not None:
        frames = frames.tb_next
    code = frames.tb_frame.f_code
    says_so = code.co_code[frames.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return says_so and code.co_filename.startswith(_ROOT)


def _fault(error: Exception, arguments: Sequence[str]) -> str:
    from proact import __version__

    named = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="proact-fault-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"proact {__version__}, Python {sys.version}\n")
        file.write(f"arguments: {list(arguments)}\n\n{text}")
    return (
        f"this is a fault of proact's own ({named}): please report it with {file.name}, as "
        "CONTRIBUTING.md says under 'Reporting a fault'"
    )


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        _say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
