"""The options of a campaign: one model for Python, files and the command line.

`CampaignOptions` determine the result. `RunOptions` add what exists in Python alone: where rows
are kept, who computes them, who is told. `proact.config.experiment.Experiment` adds what a file
needs instead: models and data by name. See `proact.options` for how an option is declared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from proact.encodings.names import ENCODING_NAMES
from proact.limits import SEEDS, TRIALS
from proact.options import Options, above_0, between_0_and_1, integer, option
from proact.results.metric_info import BUILT_IN_METRICS

if TYPE_CHECKING:
    from proact.campaign.metrics import Metric
    from proact.campaign.progress import ProgressCallback
    from proact.encodings import Encoding
    from proact.results.policy import Policy

#: Half the width of an interval where neither a margin nor a number of trials is given.
DEFAULT_MARGIN = 0.01


def _check_encoding(value: Any) -> object:
    from proact.encodings import encoding_named

    return encoding_named(value)


def _check_metric(value: Any) -> object:
    from proact.campaign.metrics import metric_named

    return metric_named(value)


def _check_images(value: Any) -> object:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (is_count or value is None or value in ("auto", "all")):
        raise ValueError(
            f"expected a number of images of at least 1, 'auto' or 'all', got {value!r}"
        )
    return value


def _check_notes(value: Any) -> object:
    try:
        return json.dumps(dict(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected values that JSON can hold: {error}") from None


def _count_or_word(text: Any) -> Any:
    return int(text) if str(text).isdecimal() else text


@dataclass(frozen=True, kw_only=True)
class CampaignOptions(Options):
    """What determines the result of a campaign beside its models, data and faults.

    Attributes:
        encoding: the stored form of the parameters.
        margin: a cell (a variant under a fault) stops when half the width of its interval is at
            most this, in the metric's unit; above 0, and at most the width of the metric's range.
            0.01 where neither this nor ``trials`` is given.
        trials: fault patterns per cell, in [1, 2^32); with a margin, the most.
        confidence: two-sided confidence level of the intervals, in (0, 1).
        images_per_trial: the number of images on which a trial is judged, drawn for (seed, trial)
            without replacement; ``"all"`` or None takes all. ``"auto"`` takes the number that
            reaches the margin soonest by the variances and costs that a pilot measures on this
            machine; the choice is kept in the store, for this margin.
        metric: the quantity that is averaged over images: ``"top-1"``, ``"top-5"``, ``"loss"``,
            ``"sdc"`` (share of predictions that differ from the fault-free ones; needs no labels),
            or a `proact.campaign.Metric`.
        seed: names the experiment, in [0, 2^63). The same seed gives the same rows.
    """

    encoding: str | Encoding = option(
        "float32",
        "Stored form of the parameters: float16, bfloat16, float32, float64, int8 (one scale per "
        "output channel), int8-tensor, native, or fixed point qM.N of up to 32 bits (1 sign, M "
        "integer and N fraction bits).",
        str,
        metavar="NAME",
        names=ENCODING_NAMES,
        check=_check_encoding,
    )
    margin: float | None = option(
        None,
        "A cell (a variant under a fault) stops when half the width of its interval is at most "
        "this, in the metric's unit; above 0.",
        float,
        metavar="MARGIN",
        default_text=f"{DEFAULT_MARGIN}, unless --trials is given",
        check=above_0,
    )
    trials: int | None = option(
        None,
        "Fault patterns per cell (count); with a margin, the most.",
        int,
        metavar="COUNT",
        check=integer(1, TRIALS),
    )
    confidence: float = option(
        0.95,
        "Two-sided confidence level of the intervals, a probability in (0, 1).",
        float,
        metavar="LEVEL",
        check=between_0_and_1,
    )
    images_per_trial: int | Literal["auto", "all"] | None = option(
        "auto",
        "Images on which a trial is judged: a number, drawn anew for each trial, 'all', or 'auto' "
        "for the number that a pilot finds to be the quickest.",
        int | str,
        metavar="COUNT",
        names=("all", "auto"),
        check=_check_images,
        from_text=_count_or_word,
    )
    metric: str | Metric = option(
        "top-1",
        f"Quantity that is averaged over images: {', '.join(BUILT_IN_METRICS)}.",
        str,
        metavar="NAME",
        names=tuple(BUILT_IN_METRICS),
        check=_check_metric,
    )
    seed: int = option(
        0,
        "Seed of weights, faults and images, an integer in [0, 2^63). The same seed gives the same "
        "table on one machine.",
        int,
        metavar="INTEGER",
        check=integer(0, SEEDS),
    )

    @property
    def margin_or_default(self) -> float | None:
        """The margin that holds: the default where neither it nor the trials are given."""
        if self.margin is None and self.trials is None:
            return DEFAULT_MARGIN
        return self.margin


@dataclass(frozen=True, kw_only=True)
class RunOptions(CampaignOptions):
    """All keyword arguments of `proact.campaign.run`, `per_layer` and `per_bit`.

    Attributes:
        store: SQLite file for the rows, written as they are computed; rows that it already holds
            for this very content are not computed again. None keeps the rows in memory.
        name: of the campaign, for people. A name stands for one task: the store refuses it for
            another.
        executor: runs the trials: any `concurrent.futures.Executor`, such as Dask's
            ``Client.get_executor()``; a number of processes; 1 for this process; None for
            processes of this machine where several cores are free and the work is worth it.
        progress: None shows progress bars in a notebook and where standard error is a terminal;
            True always shows them, False never. A function is called with a
            `proact.campaign.progress.CampaignProgress`.
        policy: how trials run, instead of what is measured here: `Result.policy` of another run,
            to repeat that run to the last digit. It decides ``images_per_trial`` too.
        prefix_cache: whether trials continue from cached activations where images are fixed and
            all faults are late in the model. It changes no row.
        retry_failed: runs trials again that an earlier run recorded as failed.
        notes: further values that JSON can hold, kept in the store with the run. Reports show
            ``costs``, by variant the fields of a `proact.protect.Cost`, and ``experiment``, the
            file that repeats the run.
    """

    store: str | Path | None = option(None, "SQLite file for the rows.")
    name: str | None = option(None, "Name of the campaign.")
    executor: Executor | int | None = option(None, "Runs the trials.")
    progress: ProgressCallback | bool | None = option(None, "Shows or receives the progress.")
    policy: Policy | None = option(None, "How trials run.")
    prefix_cache: bool = option(True, "Continue trials from cached activations.")
    retry_failed: bool = option(False, "Run failed trials again.")
    notes: Mapping[str, Any] = option(dict, "Kept in the store with the run.", check=_check_notes)
