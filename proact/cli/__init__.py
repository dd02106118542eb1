"""The command line: one small file a command. Commands hold no logic; the rooms do the work.

Nothing heavy is imported here or in the commands' files but inside their functions, so that help
and completion answer at once. See README.md beside this file.
"""

from proact.cli.main import main

__all__ = ["main"]
