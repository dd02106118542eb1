#!/usr/bin/env python
"""Which rule stops a campaign soonest, and does its interval still cover the mean then?

Simulates campaigns on recorded trials (tests/data/trials_resnet20.csv), whose true mean is known,
and prints coverage and trials for each rule. All rules see the same trials.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _arguments
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import t as student

from proact.options import integer
from proact.report.tables import Column, make_table
from proact.results.statistics import Interval, Prior, StoppingRule, Trials, mean_interval
from proact.results.statistics.estimators import adjusted
from proact.results.statistics.planning import normal_quantile

# The tests use the same simulation, so that both measure the same thing.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "statistical"))
from campaigns import (  # type: ignore[import-not-found]
    CELLS,
    Stream,
    guarded_oracle,
    stopped,
    variance_oracle,
)

#: The number of trials after which a campaign ends, however wide its interval is.
MOST = 60_000
#: Group sequential looks: from the fewest trials that may suffice to those of the worst case.
LOOKS = 16
#: Tolerance for the rounding of sums: an interval of width 0 at the true mean covers it.
ROUNDING = 1e-9
#: The largest share of the capital that one bet may lose.
MAX_STAKE = 0.9
Numbers = NDArray[np.float64]
Rule = Callable[[Stream, Prior, float, float], tuple[int, Interval]]


def ours(stream: Stream, prior: Prior, margin: float, confidence: float) -> tuple[int, Interval]:
    """`StoppingRule`."""
    result: tuple[int, Interval] = stopped(StoppingRule(margin, confidence), prior, stream)
    return result


def students(
    stream: Stream, prior: Prior, margin: float, confidence: float
) -> tuple[int, Interval]:
    """Student's t interval at the same looks, without room for failures that were not seen."""

    def at(n: int) -> Interval:
        mean, error = mean_and_error(stream.grouped(n), prior)
        half = float(student.ppf(0.5 + 0.5 * confidence, n - 1)) * error
        return Interval(mean, mean - half, mean + half)

    return first_narrow(looks(prior, margin, confidence), at, margin)


def group_sequential(
    stream: Stream, prior: Prior, margin: float, confidence: float
) -> tuple[int, Interval]:
    """`mean_interval` at few looks that share alpha evenly (Bonferroni)."""
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
        if z * error > margin:  # the normal interval is narrower than any that holds at all looks
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
    """The numbers of trials at which `StoppingRule` may look."""
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
    """The interval after (n,) trials of a sequence that, with probability 1 - alpha, covers the
    mean at all n at once.

    Args:
        right, control: accuracy with faults and without, in [0, 1], in the order of trials.
        clean: mean accuracy without faults.
    """
    slope = earlier_slopes(right, control, clean)
    x = right - slope * (control - clean)
    # Before a trial is seen, both accuracies may be anywhere in [0, 1].
    lowest, highest = -slope * (1.0 - clean), 1.0 + slope * clean
    seen = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (seen + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (seen + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    stakes = np.sqrt(2.0 * math.log(2.0 / alpha) / (before * seen * np.log(seen + 1)))

    def end(values: Numbers, bottom: Numbers) -> float:
        """The smallest mean that is not rejected; the capital falls as the mean rises."""
        low, high = 0.0, 1.0
        if bottom.max() <= -1.0:
            low, high = -1.0, 0.0
        for _ in range(25):
            m = 0.5 * (low + high)
            capital = np.log1p(np.minimum(stakes, MAX_STAKE / (m - bottom)) * (values - m)).sum()
            low, high = (m, high) if capital >= math.log(2.0 / alpha) else (low, m)
        return low

    return Interval(float(x.mean()), end(x, lowest), -end(-x, -highest))


def earlier_slopes(right: Numbers, control: Numbers, clean: float) -> Numbers:
    """(n,): for each trial the slope, in [0, 1], of the trials before it; 0 for the first ten."""
    n = np.arange(1, len(right) + 1)
    off = control - clean
    covariance = np.cumsum(off * right) - np.cumsum(off) * np.cumsum(right) / n
    variance = np.cumsum(off**2) - np.cumsum(off) ** 2 / n
    slopes = np.clip(covariance / np.maximum(variance, 1e-12), 0.0, 1.0)
    slopes[:10] = 0.0
    return np.concatenate([[0.0], slopes[:-1]])


@dataclass(frozen=True)
class Outcome:
    """The campaigns of one rule on one cell.

    Attributes:
        coverage: share of intervals that cover the true mean.
        trials: mean number of trials.
        over_oracle: trials over those of the guarded oracle (docs/statistics.md).
        over_variance_oracle: trials over (z sd / margin)^2; infinite where all trials are equal.
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
        # The seed does not depend on the rule: all rules see the same campaigns.
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


def outcome_table(outcomes: list[Outcome], options: argparse.Namespace) -> Table:
    rows = [
        (
            outcome.cell,
            outcome.rule,
            f"{100 * outcome.coverage:.1f}",
            f"{outcome.trials:,.0f}",
            f"{outcome.over_oracle:.2f}",
            f"{outcome.over_variance_oracle:.2f}",
        )
        for outcome in outcomes
    ]
    columns = [Column("distribution", is_text=True), Column("rule", is_text=True)]
    return make_table(
        [*columns, "coverage %", "mean trials", "/ guarded oracle", "/ variance oracle"],
        rows,
        f"{options.campaigns} campaigns each, {options.images} images per trial, margin "
        f"{options.margin:g} at {options.confidence:g}, seed {options.seed}",
        f"betting and Student's t end after {MOST:,} trials, narrow or not",
    )


def run(options: argparse.Namespace) -> None:
    console = Console()
    outcomes = [
        measure(options, name, label, console.is_terminal)
        for name in options.cells
        for label in RULES
    ]
    console.print(outcome_table(outcomes, options))
    _arguments.write_json(options.json, [asdict(outcome) for outcome in outcomes])


def check_margin(value: Any) -> None:
    if not isinstance(value, float) or not 0.0 < value < 0.5:
        raise ValueError(f"expected a number in (0, 0.5), got {value!r}")


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    count_images = _arguments.accepted(int, integer(1, 1001))
    below_half = _arguments.accepted(float, check_margin)
    for name, kind, default, text in (
        ("--campaigns", _arguments.COUNT, 300, "Campaigns of a rule on a distribution (count)"),
        ("--images", count_images, 16, "Images per trial, in [1, 1000]"),
        ("--margin", below_half, 0.01, "Half the width of the interval, in (0, 0.5)"),
    ):
        parser.add_argument(name, type=kind, default=default, metavar="NUMBER", help=text)
    parser.add_campaign_options(confidence=0.95, seed=0)
    parser.add_argument(
        "--cells",
        nargs="+",
        default=list(CELLS),
        choices=list(CELLS),
        metavar="NAME",
        help=f"Distributions: {', '.join(CELLS)}".replace("%", "%%"),
    )
    parser.add_json()
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
