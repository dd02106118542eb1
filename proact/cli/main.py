"""``proact``: one subcommand a question."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from proact.errors import ProactError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; 0 is success, 1 a failed verification, 2 bad input, 130 Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="proact", description="Fault injection and hardening for PyTorch networks."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    try:
        from proact.cli import profile, verify

        profile.add_command(commands)
        verify.add_command(commands)
        options = parser.parse_args(arguments)
        result: int = options.run(options)
        return result
    except (ValueError, TypeError, ProactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
