"""The command line. It parses arguments; the rooms do the work."""

from proact.cli.main import main

__all__ = ["main"]
