#!/usr/bin/env python
"""How does a model's accuracy fall with the bit error rate, and how much do protections recover?

The main job of proact on fixed numbers of trials and images: ``proact campaign`` with the options
below, and the report in the same folder. All other options of ``proact campaign`` can be given too.
"""

from __future__ import annotations

import sys

from proact.cli import main

OPTIONS = (
    "--trials", "300", "--images-per-trial", "all", "--out", "runs/ber_campaign", "--report"
)  # fmt: skip

if __name__ == "__main__":
    # An option that is given twice has its last value.
    sys.exit(main(["campaign", *OPTIONS, *sys.argv[1:]]))
