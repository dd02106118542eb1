"""``proact info``: shows installed versions and available data sets."""

from __future__ import annotations

from proact.cli.options import AsJson


def info(as_json: AsJson = False) -> None:
    """Show what is installed on this machine.

    Lists versions, instruction sets, CUDA, available data sets, models, methods, encodings and the
    folders in use.
    """
    from proact.cli.output import print_json, print_tables
    from proact.config.system_info import system_info, system_table

    found = system_info()
    if as_json:
        print_json(found)
    else:
        print_tables(system_table(found))
