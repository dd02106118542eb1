"""``proact``: the list of commands and the entry point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from proact.cli.campaign import campaign
from proact.cli.errors import exit_code
from proact.cli.info import info
from proact.cli.plan import plan
from proact.cli.profile import profile
from proact.cli.protect import protect
from proact.cli.report import report
from proact.cli.verify import verify
from proact.errors import unknown


class _Commands(TyperGroup):
    """Suggests the closest command for an unknown one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fault injection and protection for neural networks: accuracy under memory faults, with "
    "intervals, and the accuracy that protections recover.",
    epilog="Exit status: 0 done, 1 an internal error (or a failed verification), 2 bad input, "
    "3 done with failed trials, 130 interrupted, 129 or 143 ended by SIGHUP or SIGTERM, 141 the "
    "reader of the output has ended.",
)
for _command in (campaign, report, protect, plan, profile, verify, info):
    app.command()(_command)


def _show_version(is_given: bool) -> None:
    if is_given:
        from proact import __version__

        typer.echo(f"proact {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _every(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the arguments without the program's name; None uses those of the process.

    Returns:
        0: done. 1: an internal error, or a failed verification. 2: bad input. 3: done, and some
        trials failed. 130: interrupted. 129, 143: ended by SIGHUP, SIGTERM. 141: the program that
        reads standard output has ended.
    """
    command = typer.main.get_command(app)
    given = None if arguments is None else list(arguments)
    return exit_code(lambda: command.main(given, prog_name="proact", standalone_mode=False), given)
