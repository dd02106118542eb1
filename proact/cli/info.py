"""``proact info``: what is installed, and what was found on this machine."""

from __future__ import annotations

from proact.cli import options


def info(as_json: options.AsJson = False) -> None:
    """Tell what is installed on this machine.

    Versions, instruction sets, CUDA, data sets that are found, networks, methods, encodings, and
    where things are kept.
    """
    from proact.cli.output import print_json, print_tables
    from proact.config.system_info import machine, machine_table

    found = machine()
    if as_json:
        print_json(found)
    else:
        print_tables(machine_table(found))
