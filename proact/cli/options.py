"""Make command-line options from option models; see `proact.options`.

typer reads the options of a command from its signature. `takes_options` puts one parameter for each
field of a model into it, so that an option is declared once for the command line, files and Python.

typer parses the command line. cyclopts reads dataclasses directly, but fills in all defaults, which
hides whether an option was given or may come from a file. pydantic-settings would import pydantic
for every help page, which takes longer than everything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from proact.options import Option, default_of, options_of

Command = TypeVar("Command", bound=Callable[..., int | None])

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of tables, for scripts.")
]


def takes_options(
    model: type[Any], names: Sequence[str] | None = None
) -> Callable[[Command], Command]:
    """Add the options of a model to a command, which receives them as ``**given``.

    The value None means that an option was not given.

    Args:
        model: the option model.
        names: the options to add; by default all with a plain form.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[_typed(declared) | None, _typer_option(model, name, declared)],
            )
            for name, declared in _on_command_line(model, names).items()
        ]
        # A help page lists arguments first, and options that all commands share last.
        is_first = [isinstance(_info(p), typer.models.ArgumentInfo) for p in parameters]
        first = [p for p, before in zip(parameters, is_first, strict=True) if before]
        last = [p for p, before in zip(parameters, is_first, strict=True) if not before]
        command.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*first, *added, *last]
        )
        return command

    return decorate


def given_values(
    model: type[Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the plain values and the flags of the options that were given."""
    declared = options_of(model)
    values = {
        name: value if declared[name].from_text is None else declared[name].from_text(value)  # type: ignore[misc]
        for name, value in given.items()
        if value is not None
    }
    return values, {name: flag_of(name, declared[name]) for name in values}


def flag_of(name: str, declared: Option) -> str:
    """Return the flag of an option, such as ``--images-per-trial``."""
    return f"--{name.replace('_', '-')}" if declared.flag is None else declared.flag


def completing(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Make a function that completes a name in a shell."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _on_command_line(model: type[Any], names: Sequence[str] | None) -> dict[str, Option]:
    return {
        name: declared
        for name, declared in options_of(model).items()
        if declared.plain_type is not None
        and declared.flag != ""
        and (names is None or name in names)
    }


def _typer_option(model: type[Any], name: str, declared: Option) -> Any:
    flag = flag_of(name, declared)
    text = declared.default_text
    if text is None:  # making a default may be slow if its text is declared
        default = default_of(model, name)
        text = None if default is None or default is False or default == () else str(default)
    return typer.Option(
        f"{flag}/--no-{flag[2:]}" if declared.plain_type is bool else flag,
        metavar=declared.metavar,
        help=declared.help if text is None else f"{declared.help} [default: {text}]",
        show_default=False,
        autocompletion=completing(declared.names) if declared.names else None,
    )


def _typed(declared: Option) -> Any:
    """Return the type that typer parses: int, float and bool as such, everything else as text."""
    plain = declared.plain_type
    if plain in (int, float, bool):
        return plain
    kinds = get_args(plain) if isinstance(plain, UnionType) else (plain,)
    return list[str] if any(get_origin(kind) is list for kind in kinds) else str


def _info(parameter: inspect.Parameter) -> Any:
    return next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
