"""``python -m proact``."""

import sys

from proact.cli import main

if __name__ == "__main__":
    sys.exit(main())
