#!/usr/bin/env python
"""Which rule stops a campaign soonest, and does its interval still cover the mean then?

Simulates campaigns on recorded trials (tests/data/trials_resnet20.csv), whose true mean is known,
and prints coverage and trials for each rule. All rules see the same trials.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import t as student

from proact.results.statistics import Interval, Prior, StoppingRule, Trials, mean_interval
from proact.results.statistics.estimators import adjusted
from proact.results.statistics.planning import normal_quantile

# The simulation is the one that the tests are made of, so that both measure the same thing.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "statistical"))
from campaigns import (  # type: ignore[import-not-found]
    CELLS,
    Stream,
    guarded_oracle,
    stopped,
    variance_oracle,
)

#: Where looks end, whatever an interval says.
MOST = 60_000
#: Group sequential looks, from the fewest trials that can do to those that the worst case takes.
LOOKS = 16
#: An interval without width about the true mean covers it, though sums round.
ROUNDING = 1e-9
#: The largest share of the capital that one bet may lose.
BOLDEST = 0.9
Numbers = NDArray[np.float64]
Rule = Callable[[Stream, Prior, float, float], tuple[int, Interval]]


def ours(stream: Stream, prior: Prior, margin: float, confidence: float) -> tuple[int, Interval]:
    """`StoppingRule`."""
    result: tuple[int, Interval] = stopped(StoppingRule(margin, confidence), prior, stream)
    return result


def students(
    stream: Stream, prior: Prior, margin: float, confidence: float
) -> tuple[int, Interval]:
    """Student's t interval at the same looks, as though nothing could be unseen."""

    def at(n: int) -> Interval:
        mean, error = mean_and_error(stream.grouped(n), prior)
        half = float(student.ppf(0.5 + 0.5 * confidence, n - 1)) * error
        return Interval(mean, mean - half, mean + half)

    return first_narrow(looks(prior, margin, confidence), at, margin)


def group_sequential(
    stream: Stream, prior: Prior, margin: float, confidence: float
) -> tuple[int, Interval]:
    """`mean_interval` at few looks, which share alpha evenly (Bonferroni)."""
    each = 1.0 - (1.0 - confidence) / LOOKS
    first = StoppingRule(margin, each).first(prior)
    last = (normal_quantile(each) / margin) ** 2 / 4 * 1.05
    growth = (last / first) ** (1.0 / (LOOKS - 1))

    def at(n: int) -> Interval:
        values, counts = adjusted(stream.grouped(n), prior)
        return mean_interval(values, each, min(0.0, values.min()), max(1.0, values.max()), counts)

    return first_narrow([math.ceil(first * growth**i) for i in range(LOOKS)], at, margin)


def betting(stream: Stream, prior: Prior, margin: float, confidence: float) -> tuple[int, Interval]:
    """The hedged capital process of Waudby-Smith and Ramdas (JRSS-B 86, 2024, section 4), valid at
    every number of trials. The control's slope comes from earlier trials only, as the stakes do."""
    z = normal_quantile(confidence)

    def at(n: int) -> Interval:
        mean, error = mean_and_error(stream.grouped(n), prior)
        if z * error > margin:  # a plain normal interval is narrower than any that always holds
            return Interval(mean, mean - z * error, mean + z * error)
        right, control = stream.first(n)
        return betting_sequence(right, control, prior.clean, 1.0 - confidence)

    return first_narrow(looks(prior, margin, confidence), at, margin)


RULES: dict[str, Rule] = {
    "ours": ours,
    "Student's t, same looks": students,
    f"group sequential, {LOOKS} looks": group_sequential,
    "betting, every look": betting,
}


def looks(prior: Prior, margin: float, confidence: float) -> list[int]:
    """The numbers of trials at which our rule may look."""
    rule = StoppingRule(margin, confidence, MOST)
    numbers = [rule.first(prior)]
    while numbers[-1] < MOST:
        numbers.append(rule._look(numbers[-1] + 1))
    return numbers


def first_narrow(
    numbers: list[int], at: Callable[[int], Interval], margin: float
) -> tuple[int, Interval]:
    for n in numbers:
        interval = at(n)
        if interval.half_width <= margin:
            break
    return n, interval


def mean_and_error(trials: Trials, prior: Prior) -> tuple[float, float]:
    """Mean of values less their control, and its standard error."""
    values, counts = adjusted(trials, prior)
    n = counts.sum()
    mean = float(values @ counts / n)
    return mean, math.sqrt(float((values - mean) ** 2 @ counts) / (n - 1) / n)


def betting_sequence(right: Numbers, control: Numbers, clean: float, alpha: float) -> Interval:
    """The interval after all of (n,) trials, of a sequence that covers the mean at every n at once
    with a chance of 1 - alpha.

    Args:
        right, control: accuracy with faults and without, in [0, 1], in the order of trials.
        clean: mean accuracy without faults.
    """
    slope = earlier_slopes(right, control, clean)
    x = right - slope * (control - clean)
    # Before a trial is seen, all that is known is that both accuracies lie in [0, 1].
    lowest, highest = -slope * (1.0 - clean), 1.0 + slope * clean
    seen = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (seen + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (seen + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    stakes = np.sqrt(2.0 * math.log(2.0 / alpha) / (before * seen * np.log(seen + 1)))

    def end(values: Numbers, bottom: Numbers) -> float:
        """The smallest mean that is not given up; the capital falls as the mean rises."""
        low, high = 0.0, 1.0
        if bottom.max() <= -1.0:
            low, high = -1.0, 0.0
        for _ in range(25):
            m = 0.5 * (low + high)
            capital = np.log1p(np.minimum(stakes, BOLDEST / (m - bottom)) * (values - m)).sum()
            low, high = (m, high) if capital >= math.log(2.0 / alpha) else (low, m)
        return low

    return Interval(float(x.mean()), end(x, lowest), -end(-x, -highest))


def earlier_slopes(right: Numbers, control: Numbers, clean: float) -> Numbers:
    """(n,), for each trial the slope in [0, 1] of the trials before it; 0 for the first ten."""
    n = np.arange(1, len(right) + 1)
    off = control - clean
    covariance = np.cumsum(off * right) - np.cumsum(off) * np.cumsum(right) / n
    variance = np.cumsum(off**2) - np.cumsum(off) ** 2 / n
    slopes = np.clip(covariance / np.maximum(variance, 1e-12), 0.0, 1.0)
    slopes[:10] = 0.0
    return np.concatenate([[0.0], slopes[:-1]])


@dataclass(frozen=True)
class Outcome:
    """What became of one rule's campaigns on one cell.

    Attributes:
        coverage: share of intervals that hold the true mean.
        trials: mean number.
        over_oracle: trials over those of one who knows the variance and fears the unseen.
        over_variance_oracle: over (z sd / margin)^2; infinite for what never changes.
    """

    cell: str
    images: int
    margin: float
    rule: str
    coverage: float
    trials: float
    over_oracle: float
    over_variance_oracle: float


def measure(options: argparse.Namespace, name: str, label: str, show: bool) -> Outcome:
    cell = CELLS[name]()
    covered, trials = 0, 0
    for number in track(
        range(options.campaigns), f"{name}, {label}", transient=True, disable=not show
    ):
        # Each rule meets the same campaigns.
        stream = Stream(cell, options.images, np.random.default_rng([options.seed, number]))
        n, interval = RULES[label](stream, cell.prior, options.margin, options.confidence)
        trials += n
        covered += interval.low - ROUNDING <= cell.mean <= interval.high + ROUNDING
    mean = trials / options.campaigns
    plain = variance_oracle(cell, options.images, options.margin, options.confidence)
    guarded = guarded_oracle(cell, options.images, options.margin, options.confidence)
    return Outcome(
        name,
        options.images,
        options.margin,
        label,
        covered / options.campaigns,
        mean,
        mean / guarded,
        mean / plain if plain > 1e-6 else math.inf,
    )


def table(outcomes: list[Outcome], options: argparse.Namespace) -> Table:
    result = Table(
        title=f"{options.campaigns} campaigns each, {options.images} images a trial, margin "
        f"{options.margin:g} at {options.confidence:g}, seed {options.seed}",
        caption=f"betting and Student's t are cut off after {MOST:,} trials, narrow or not",
    )
    for heading in ("distribution", "rule"):
        result.add_column(heading)
    for heading in ("coverage %", "mean trials", "/ oracle", "/ variance oracle"):
        result.add_column(heading, justify="right")
    for outcome in outcomes:
        result.add_row(
            outcome.cell,
            outcome.rule,
            f"{100 * outcome.coverage:.1f}",
            f"{outcome.trials:,.0f}",
            f"{outcome.over_oracle:.2f}",
            f"{outcome.over_variance_oracle:.2f}",
        )
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--campaigns", type=int, default=300, help="of each rule and distribution (count)")
    add("--seed", type=int, default=0, help="of trials and images, an integer in [0, 2^63)")
    add("--images", type=int, default=16, help="of a trial, in [1, 1000]")
    add("--margin", type=float, default=0.01, help="half the width of the interval, in (0, 0.5)")
    add("--confidence", type=float, default=0.95, help="in (0, 1)")
    add("--cells", nargs="+", default=list(CELLS), choices=list(CELLS), metavar="NAME",
        help=f"distributions: {', '.join(CELLS)}")  # fmt: skip
    add("--json", type=Path, metavar="PATH", help="where to write the figures as well")
    options = parser.parse_args(arguments)
    fits = 0 < options.margin < 0.5 and 0 < options.confidence < 1 and 1 <= options.images <= 1000
    if options.campaigns < 1 or not 0 <= options.seed < 2**63 or not fits:
        parser.error("--campaigns, --seed, --images, --margin or --confidence is out of its range")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    try:
        outcomes = [
            measure(options, name, label, console.is_terminal)
            for name in options.cells
            for label in RULES
        ]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    console.print(table(outcomes, options))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
