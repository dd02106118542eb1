#!/usr/bin/env python
"""How does a model's accuracy fall with the bit error rate, and how much do protections recover?

The main job of proact: ``proact campaign`` on experiments/digits.yaml, with fixed numbers of trials
and images, and the report in the same folder. All options of ``proact campaign`` can be given too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from proact.cli import main

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "digits.yaml"
OPTIONS = (str(EXPERIMENT), "--out", "runs/ber_campaign", "--report")

if __name__ == "__main__":
    # An option that is given twice has its last value.
    sys.exit(main(["campaign", *OPTIONS, *sys.argv[1:]]))
