"""Run a campaign: every variant receives the same faults on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, Protocol

from torch import nn

from proact.campaign.campaign_run import CampaignRun
from proact.campaign.executors import checked_executor
from proact.campaign.options import RunOptions
from proact.campaign.validation import checked_faults, checked_variants
from proact.campaign.worst_cases import random_flips
from proact.data.dataset import SamplesOrData
from proact.faults import Fault
from proact.interruption import GracefulShutdown
from proact.results.result import Result

P = ParamSpec("P")


class _Run(Protocol[P]):
    """`run` with the fields of `RunOptions` as keyword arguments, for type checkers."""

    def __call__(
        self,
        variants: Mapping[str, nn.Module],
        data: SamplesOrData,
        faults: Sequence[Fault],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Result: ...


def _typed(options: Callable[P, RunOptions]) -> Callable[[Callable[..., Result]], _Run[P]]:
    return lambda function: function


@_typed(RunOptions)
def run(
    variants: Mapping[str, nn.Module],
    data: SamplesOrData,
    faults: Sequence[Fault],
    **options: Any,
) -> Result:
    """Measure the metric of each variant under each fault.

    A trial is one fault pattern, evaluated on some of the images. Trial t of every variant has the
    same faults in the tensors that the variants share by name, and the same images. Differences
    between variants are therefore paired. An image whose output holds NaN or infinity counts as
    misclassified.

    A cell (a variant under a fault) stops when half the width of its interval is at most the
    margin. Further trials then run until the differences to the first variant are as narrow, too
    (``difference_margin``); cells do not use them. The number of trials, and so the table, depends
    only on the arguments that `CampaignOptions` lists and on the number of images that ``"auto"``
    chose. It does not depend on the executor, on interruptions or on other content of the store.
    The last digits of model outputs can differ between machines, as they do in PyTorch.

    Args:
        variants: one or more models by name. They are not modified: copies are encoded and faulted.
        data: the evaluation samples: a `proact.data.Data` (its test split is used), a pair
            (inputs, targets), inputs alone, a `Dataset` or a `DataLoader`. Inputs and targets are
            pytrees of tensors or numpy arrays (n, ...) of any dtype, such as a dict of token ids
            and masks; see `proact.data.as_split`.
        faults: one or more distinct faults of `proact.faults`; each makes one cell per variant.
        options: the fields of `proact.campaign.RunOptions`.

    Returns:
        The result, the same as one that is read back from the store.

    Raises:
        ValueError, TypeError: an argument is out of range, variants or faults are empty, a name is
            empty or has a lone surrogate, the encoding cannot store a model, or outputs do not fit
            the labels or each other. No trial is run and nothing is written.
        ProactError: the store cannot be used, or its campaign of this name is another task; the
            executor does not accept work.
        KeyboardInterrupt: Ctrl-C interrupted the run; finished units are stored.
        SystemExit: SIGTERM or SIGHUP ended the run in the same way, unless the caller handles or
            ignores the signal. The exit status is 128 plus its number.
    """
    chosen = RunOptions(**options)
    chosen = replace(
        chosen, margin=chosen.margin_or_default, executor=checked_executor(chosen.executor)
    )
    measured = checked_faults(faults)
    if chosen.worst_flips is not None:
        measured = list(dict.fromkeys([*measured, random_flips(chosen.worst_flips, measured)]))
    with (
        GracefulShutdown(),
        CampaignRun(checked_variants(variants), data, measured, chosen) as campaign,
    ):
        campaign.run_trials(campaign.spec.rule or _fixed(chosen.trials))
        campaign.run_pairs()
        return campaign.finished()


def _fixed(trials: int | None) -> int:
    assert trials is not None
    return trials
