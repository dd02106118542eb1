#!/usr/bin/env python
"""How long does `proact --help` take?

Goal: under 0.3 s, the median of new processes, with files in the machine's cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import _arguments

GOAL_SECONDS = 0.3
COMMANDS = (["--help"], ["campaign", "--help"], ["--version"])


def run(options: argparse.Namespace) -> None:
    bare = quartiles(["-c", "pass"], options.repeats)
    print(f"python alone: {bare[1]:.3f} s")
    for command in COMMANDS:
        low, median, high = quartiles(["-m", "proact", *command], options.repeats)
        verdict = "reached" if median < GOAL_SECONDS else "MISSED"
        print(
            f"proact {' '.join(command)}: {median:.3f} s (quartiles {low:.3f} to {high:.3f}), goal "
            f"< {GOAL_SECONDS:g} s {verdict}"
        )


def quartiles(arguments: list[str], repeats: int) -> tuple[float, float, float]:
    """Quartiles of the wall time of new processes, in seconds; the first process does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    if repeats == 1:
        return (seconds[1],) * 3
    low, median, high = statistics.quantiles(seconds[1:], n=4, method="inclusive")
    return low, median, high


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_repeats(15)
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
