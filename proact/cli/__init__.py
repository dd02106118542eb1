"""The command line: one module per command, without logic. See README.md beside this file.

Command modules import heavy modules inside their functions only, so that help and completion are
fast.
"""

from proact.cli.main import main

__all__ = ["main"]
