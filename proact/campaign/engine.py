"""Runs a campaign: every variant meets the same faults on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, Protocol

from torch import nn

from proact.campaign.campaign_run import CampaignRun
from proact.campaign.evaluation import EvaluationData
from proact.campaign.executors import checked_executor
from proact.campaign.options import RunOptions
from proact.campaign.validation import checked_faults, checked_variants
from proact.faults import Fault
from proact.results.result import Result

P = ParamSpec("P")


class _Run(Protocol[P]):
    """`run` with the fields of `RunOptions` as keyword arguments, for type checkers."""

    def __call__(
        self,
        variants: Mapping[str, nn.Module],
        data: EvaluationData,
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
    data: EvaluationData,
    faults: Sequence[Fault],
    **options: Any,
) -> Result:
    """Measures the metric of each variant under each fault.

    A trial is one fault pattern, judged on some of the evaluation images. Trial t of every variant
    has the same faults in the tensors that the variants share by name, and the same images, so that
    differences between variants are paired. An image whose output holds NaN or infinity counts as
    wrong.

    A cell (a variant under a fault) stops when its interval is as narrow as the margin. The number
    of trials, and with it the table, depends only on the arguments that `CampaignOptions` lists and
    on what ``"auto"`` chose: not on executors, interruptions, or what else is in the store. (Last
    digits of outputs can differ between machines, as PyTorch's do.)

    Args:
        variants: models by name; copies of them are encoded and faulted.
        data: the evaluation images: a `proact.data.Data` (its test split), a pair (images, labels),
            a `Dataset`, or for metrics of your own inputs with any targets, or inputs alone.
        faults: of the kinds in `proact.faults`; each makes one cell per variant.
        options: the fields of `proact.campaign.RunOptions`.

    Raises:
        ValueError, TypeError: an argument out of range, no variants, no faults, a model that the
            encoding cannot store, outputs that do not fit the labels or each other; nothing is run
            or written. ProactError: a store that cannot be used or belongs to another task, an
            executor that takes no work. KeyboardInterrupt: after finished units were stored.
    """
    chosen = RunOptions(**options)
    chosen = replace(
        chosen, margin=chosen.margin_or_default, executor=checked_executor(chosen.executor)
    )
    with CampaignRun(checked_variants(variants), data, checked_faults(faults), chosen) as campaign:
        campaign.run_trials(campaign.spec.rule or _fixed(chosen.trials))
        return campaign.finished()


def _fixed(trials: int | None) -> int:
    assert trials is not None
    return trials
