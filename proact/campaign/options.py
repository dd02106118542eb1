"""The options of a campaign: one model for Python, files and the command line.

`CampaignOptions` determine the result. `RunOptions` add the options that exist in Python alone:
the store, the executor and the progress callback. `proact.config.experiment.Experiment` adds models
and data by name for files and the command line. `proact.options` explains how to declare an option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from proact.campaign import option_checks
from proact.encodings.names import ENCODING_NAMES
from proact.limits import SEEDS, TRIALS
from proact.options import (
    Options,
    between_0_and_1,
    integer,
    one_of,
    option,
    true_or_false,
)
from proact.results.metric_info import BUILT_IN_METRICS

if TYPE_CHECKING:
    from torch import nn

    from proact.campaign.metrics import Metric
    from proact.campaign.progress import ProgressCallback
    from proact.data.reading import Collate
    from proact.faults.mixed_encoding import EncodingLike
    from proact.nn.batches import Batch
    from proact.nn.forward import OutputSelector
    from proact.results.policy import Policy

#: The margin if neither a margin nor a number of trials is given.
DEFAULT_MARGIN = 0.01
#: The most trials of a cell whose margin is a share of its loss, unless ``trials`` is given.
_MOST_WITH_RELATIVE_MARGIN = 50_000


@dataclass(frozen=True, kw_only=True)
class CampaignOptions(Options):
    """The options that determine the result of a campaign, besides models, data and faults.

    Attributes:
        encoding: the stored form of the parameters, by name or as a `proact.encodings.Encoding`;
            or a mapping of selectors to these. A tensor has the encoding of its first match.
        margin: a cell (a variant under a fault) stops when half the width of its interval is at
            most this, in the metric's unit; above 0, and below half the width of the metric's
            range, because an interval of the whole range needs no trial. 0.01 if neither this nor
            ``trials`` is given. A text such as ``"10%"``, above 0 % and below 100 %, is a share of
            the cell's loss, the distance of its mean from the clean result.
        difference_margin: with a margin, further trials run until half the width of the paired
            interval of each variant's difference to the first is at most this, in the metric's
            unit; above 0. Cells do not use these trials. None takes the margin, if that is not a
            share of the loss. False runs no further trials: a difference then has the trials that
            both cells need for themselves. A difference never has more trials than a cell may.
        trials: number of fault patterns per cell, in [1, 2^32); with a margin, the maximum, which
            is 50,000 for a margin that is a share of the loss: a cell in which nothing is ever lost
            ends there.
        confidence: two-sided confidence level of the intervals, in (0, 1).
        images_per_trial: the number of images that evaluate a trial, drawn without replacement from
            (seed, trial); ``"all"`` or None uses all. With ``"auto"``, a pilot measures variances
            and costs on this machine and chooses the number that reaches the margin soonest. The
            store keeps the choice for this margin. A campaign that takes at most two seconds on
            all images uses all of them, and so does one whose unit is the batch.
        metric: the quantity that is averaged over images: of class logits (images, classes)
            ``"top-1"``, ``"top-5"``, ``"loss"`` and ``"sdc"`` (share of predictions that differ
            from the golden ones; needs no labels); of token logits (samples, tokens, classes)
            ``"token-accuracy"`` and ``"token-loss"`` (cross-entropy per token, the logarithm of
            the perplexity), where targets of -100 do not count; ``"mean-iou"`` of segmentation
            logits (images, classes, height, width), where targets of 255 do not count;
            ``"mean-average-precision"`` of torchvision's detectors; ``"cosine"`` to the golden
            output (that of the same model without faults); or a `proact.campaign.Metric`.
        strata: ``"auto"`` draws the trials of a `proact.faults.BitFlip` in strata, by the number of
            flips in the bits that matter (the critical field), where this is expected to save
            trials; True wherever it is possible; False never. Strata need a margin, an encoding
            without a code, and tensors that all variants share. A pilot of single flips in the
            first variant finds the bits; if none of its flips loses anything, there are no strata
            (docs/statistics.md).
        worst_flips: the number of flips, at least 1, of a search in each variant for the flips that
            hurt it most (`proact.campaign.worst_case`); it needs logits of classes. As many random
            flips, `proact.faults.ExactFlips`, join the faults. None searches nothing.
        seed: determines the faults and images of each trial, in [0, 2^63). The same seed gives the
            same rows.
        forward: a function of (model, batch) that runs the model it is given. By default a mapping
            enters as ``model(**batch)``, a tuple as ``model(*batch)``, anything else as
            ``model(batch)``.
        output: the part of the output that the metric gets: the name of an attribute or key, a
            position, or a function of the output. By default the built-in metrics read the logits
            (a tensor, or the attribute or key ``logits``), and a metric of your own gets the whole
            output.
        collate: makes a batch, (inputs, targets) or inputs, of a list of items of a `Dataset`, as
            for texts and images of different sizes. A `DataLoader` has its own.
        unit: ``"image"`` draws single samples for each trial. ``"batch"`` divides the data into
            fixed batches (those of a `DataLoader`, or 64 samples) and draws whole batches, for
            models whose output for an input depends on the other inputs of its batch.
        state: ``"restore"`` puts state that a forward pass writes to buffers and attributes back
            after each forward pass, and refuses a model that still gives two outputs for the same
            inputs. ``"keep"`` carries state from batch to batch and from trial to trial and
            accepts random outputs; the rows then depend on the order of the trials.
        on_error: a forward pass that raises an error because of a fault is a detected error.
            ``"worst"`` counts its images as wrong; ``"exclude"`` records the trial as
            failed, which widens the interval.

    Raises:
        ValueError, TypeError: an option has a value that is not accepted.
    """

    encoding: EncodingLike = option(
        "float32",
        "Stored form of the parameters: float16, bfloat16, float32, float64, float8_e4m3, "
        "float8_e5m2, other floats of up to 16 bits such as e3m2, int8 (one scale per output "
        "channel), int8-tensor, native, fixed point qM.N of up to 32 bits (1 sign, M integer and "
        "N fraction bits), or blocks with scales: mxfp8_e4m3, mxfp8_e5m2, mxfp6_e3m2, mxfp6_e2m3, "
        "mxfp4, mxint8, nvfp4, int4-group32, int4-group32-zero, bfp8-block32; with a code as in "
        "float32+bch2; or by tensor as in "
        '{"*.running_*": "float32+tmr", "*": "float32+bch2"}.',
        Any,
        metavar="NAME",
        names=ENCODING_NAMES,
        check=option_checks.encoding,
        parse=option_checks.named_encoding,
    )
    margin: float | str | None = option(
        None,
        "A cell (a variant under a fault) stops when half the width of its interval is at most "
        "this, in the metric's unit, above 0: 0.01 is 1 point of accuracy; or a share of the "
        "cell's loss, as in 10%.",
        float | str,
        metavar="MARGIN",
        default_text=f"{DEFAULT_MARGIN}, unless --trials is given",
        check=option_checks.margin,
        from_text=option_checks.number_or_text,
    )
    difference_margin: float | Literal[False] | None = option(
        None,
        "Further trials run until half the width of the interval of each difference to the first "
        "variant is at most this, in the metric's unit, above 0; off runs none.",
        float | bool | str,
        metavar="MARGIN",
        default_text="the margin, unless that is a share of the loss",
        names=("off",),
        check=option_checks.difference_margin,
        parse=option_checks.on_or_off,
        from_text=option_checks.number_or_text,
    )
    trials: int | None = option(
        None,
        "Fault patterns per cell (count); with a margin, the maximum.",
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
        "Images that evaluate a trial: a number, drawn anew for each trial, 'all', or 'auto' "
        "for the number that a pilot finds to be the fastest.",
        int | str,
        metavar="COUNT",
        names=("all", "auto"),
        check=option_checks.images,
        accepts_none=True,
        from_text=option_checks.count_or_text,
    )
    metric: str | Metric = option(
        "top-1",
        f"Quantity that is averaged over images: {', '.join(BUILT_IN_METRICS)}; or a Metric or a "
        "function of (outputs, targets, golden outputs): file.py:attribute or module:attribute.",
        str,
        metavar="NAME",
        names=tuple(BUILT_IN_METRICS),
        check=option_checks.metric,
    )
    strata: bool | Literal["auto"] = option(
        "auto",
        "Draw trials in strata by the number of flips in the bits that matter: auto where this "
        "saves trials, on wherever it is possible, off never.",
        str | bool,
        metavar="CHOICE",
        names=("auto", "on", "off"),
        check=option_checks.strata,
        parse=option_checks.on_or_off,
    )
    worst_flips: int | None = option(
        None,
        "Search each variant for this many flips that hurt it most (count), and compare them with "
        "as many random flips.",
        int,
        metavar="COUNT",
        check=integer(1, TRIALS),
    )
    seed: int = option(
        0,
        "Seed of weights, faults and images, an integer in [0, 2^63). The same seed gives the same "
        "table on one machine.",
        int,
        metavar="INTEGER",
        check=integer(0, SEEDS),
    )
    forward: Callable[[nn.Module, Batch], Any] | None = option(
        None,
        "Function of (model, batch) that runs the model: file.py:attribute or module:attribute.",
        str,
        metavar="NAME",
        check=option_checks.function,
    )
    output: OutputSelector | None = option(
        None,
        "Part of the model's output that the metric gets: an attribute or key, a position, or a "
        "function (file.py:attribute).",
        str | int,
        metavar="NAME",
        default_text="the logits",
        check=option_checks.output,
        from_text=option_checks.count_or_text,
    )
    collate: Collate | None = option(
        None,
        "Function that makes a batch of a list of items: file.py:attribute or module:attribute.",
        str,
        metavar="NAME",
        check=option_checks.function,
    )
    unit: Literal["image", "batch"] = option(
        "image",
        "Unit that a trial draws: image, or batch for models whose output depends on the batch.",
        str,
        metavar="UNIT",
        names=("image", "batch"),
        check=one_of("image", "batch"),
    )
    state: Literal["restore", "keep"] = option(
        "restore",
        "State that a forward pass writes: restore puts it back after each pass and refuses random "
        "outputs, keep accepts both.",
        str,
        metavar="TREATMENT",
        names=("restore", "keep"),
        check=one_of("restore", "keep"),
    )
    on_error: Literal["worst", "exclude"] = option(
        "worst",
        "Treatment of forward passes that raise an error because of a fault: worst counts their "
        "images as wrong, exclude records the trial as failed.",
        str,
        metavar="TREATMENT",
        names=("worst", "exclude"),
        check=one_of("worst", "exclude"),
    )

    @property
    def margin_or_default(self) -> float | str | None:
        """The margin that applies: `DEFAULT_MARGIN` if neither margin nor trials are given."""
        if self.margin is None and self.trials is None:
            return DEFAULT_MARGIN
        return self.margin

    @property
    def absolute_margin(self) -> float | None:
        """The margin in the metric's unit; None without one, or if it is a share of the loss."""
        margin = self.margin_or_default
        return None if isinstance(margin, str) else margin

    @property
    def relative_margin(self) -> float | None:
        """The margin as a share of the loss, in (0, 1); None without one."""
        margin = self.margin_or_default
        return option_checks.share_of_loss(margin) if isinstance(margin, str) else None

    @property
    def margin_of_differences(self) -> float | None:
        """The margin of differences to the first variant; None if they need no further trials."""
        if self.difference_margin is None or self.margin_or_default is None:
            return self.absolute_margin
        return self.difference_margin or None

    def margin_for_planning(self, width: float) -> float:
        """The margin in the metric's unit by which work is estimated in advance; for one that is a
        share of the loss, 1 % of the width of the metric's range."""
        return self.absolute_margin or DEFAULT_MARGIN * width

    @property
    def most_trials(self) -> int | None:
        """The largest number of trials of a cell; None if there is no limit."""
        if self.trials is None and self.relative_margin is not None:
            return _MOST_WITH_RELATIVE_MARGIN
        return self.trials


@dataclass(frozen=True, kw_only=True)
class RunOptions(CampaignOptions):
    """All keyword arguments of `proact.campaign.run`, `per_layer` and `per_bit`.

    Attributes:
        store: SQLite file for the rows, which are written as they are computed. Rows that it
            already holds for the same task are not computed again. None keeps the rows in memory.
        name: readable name of the campaign. A name belongs to one task (models, data, faults and
            options that determine rows), and the store refuses it for another.
        executor: runs the trials: any `concurrent.futures.Executor`, such as Dask's
            ``Client.get_executor()``; a number of local processes; 1 for this process. None chooses
            local processes, or this process if the work is short or runs on a GPU.
        progress: None shows progress bars in a notebook or if standard error is a terminal; True
            always shows them, False never. A function is called with a
            `proact.campaign.progress.CampaignProgress`.
        policy: the `Result.policy` of another run, to repeat that run to the last digit. It
            replaces the measurements on this machine and ``images_per_trial``.
        prefix_cache: whether trials reuse cached activations if the images are fixed and all faults
            are late in the model. It changes no row.
        retry_failed: whether to run all trials again that an earlier run recorded as failed. Trials
            whose workers died are run again in any case.
        notes: further values that JSON can hold, kept in the store with the run. Reports show
            ``costs`` (by variant, the fields of a `proact.protect.Cost`) and ``experiment`` (the
            file that repeats the run).
    """

    store: str | Path | None = option(None, "SQLite file for the rows.")
    name: str | None = option(None, "Name of the campaign.", check=option_checks.campaign_name)
    executor: Executor | int | None = option(None, "Executor that runs the trials.")
    progress: ProgressCallback | bool | None = option(None, "Progress bars or a callback.")
    policy: Policy | None = option(None, "Policy of another run, to repeat it.")
    prefix_cache: bool = option(True, "Reuse cached activations.", check=true_or_false)
    retry_failed: bool = option(False, "Run failed trials again.", check=true_or_false)
    notes: Mapping[str, Any] = option(
        dict, "Values that the store keeps with the run.", check=option_checks.notes
    )
