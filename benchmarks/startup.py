#!/usr/bin/env python
"""How long does `proact --help` take?

Goal: under 0.5 s, the median of new processes, with files in the machine's cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

GOAL_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15, help="processes a command (count)")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        print(f"error: --repeats takes 1 or more, got {options.repeats}", file=sys.stderr)
        return 2
    bare = measured(["-c", "pass"], options.repeats)
    print(f"python alone: {bare[1]:.3f} s")
    for command in (["--help"], ["campaign", "--help"], ["--version"]):
        low, median, high = measured(["-m", "proact", *command], options.repeats)
        verdict = "reached" if median < GOAL_SECONDS else "MISSED"
        print(
            f"proact {' '.join(command)}: {median:.3f} s (quartiles {low:.3f} to {high:.3f}), goal "
            f"< {GOAL_SECONDS:g} s {verdict}"
        )
    return 0


def measured(arguments: list[str], repeats: int) -> tuple[float, float, float]:
    """The quartiles of the wall time of new processes, in seconds; the first does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    if repeats == 1:
        return (seconds[1],) * 3
    low, median, high = statistics.quantiles(seconds[1:], n=4, method="inclusive")
    return low, median, high


if __name__ == "__main__":
    sys.exit(main())
