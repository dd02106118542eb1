"""Which layer, or which bit of a word, hurts most: stratified campaigns on one network.

The strata share out the fault space: the layers of a network, or the bits of its words. A trial
hits one stratum alone. How many trials a stratum gets follows from its share of the whole and from
how much its trials vary, so that the whole's interval is as narrow as so many trials can make it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from proact.campaign.campaign_run import Session
from proact.campaign.coordinator import OpenCell
from proact.campaign.evaluation import EvaluationData
from proact.campaign.executors import checked_executor
from proact.campaign.metrics import Metric
from proact.campaign.progress import Progress
from proact.campaign.settings import Order, Settings
from proact.campaign.validation import checked_images, checked_notes
from proact.encodings import Encoding
from proact.faults import ExactFlips, FaultSpace, Where, encode
from proact.faults.kinds import StoredFault
from proact.faults.space import ExposedTensor
from proact.ops.plan import TRIALS
from proact.results.result import Result
from proact.results.run_log import Kind
from proact.results.statistics import (
    Interval,
    Trials,
    deviation,
    optimal_allocation,
    stratified_mean,
    trial_mean,
)
from proact.results.stratum import Stratum, shares_of, stratum, sweep_confidence

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_ONE_FLIP = ExactFlips(1)
#: Trials that every stratum gets before anything is known of it.
_FIRST = 32
#: A stratum in which nothing has happened yet varies at least so much, in shares of images.
_LEAST_DEVIATION = 0.01
#: The strata of one round get at most so many times what they had.
_GROWTH = 2


@dataclass(frozen=True)
class Sweep:
    """What a stratified campaign found.

    Attributes:
        kind: ``"layer"`` or ``"bit"``.
        strata: in the network's order, or from bit 0.
        whole: the metric's mean when the fault hits the parts in proportion to their bits.
        clean: the metric without faults.
        result: the rows, a fault for each stratum.
    """

    kind: str
    strata: Sequence[Stratum]
    whole: Interval
    clean: float
    result: Result

    def to_pandas(self) -> pd.DataFrame:
        """One row a stratum: its name, share, value and loss with their intervals, and trials."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame(
            {
                self.kind: stratum.name,
                "share": stratum.share,
                "value": stratum.value.estimate,
                "low": stratum.value.low,
                "high": stratum.value.high,
                "loss": stratum.loss.estimate,
                "loss_low": stratum.loss.low,
                "loss_high": stratum.loss.high,
                "trials": stratum.trials,
            }
            for stratum in self.strata
        )
        return frame

    def table(self) -> Table:
        """To print with rich: the strata that lose most come first; points are percent."""
        from rich.table import Table

        percent = f"{100 * self.result.confidence:g} % interval"
        table = Table(
            title=f"Loss by {self.kind}",
            caption=f"all together: {100 * self.whole.estimate:.2f} "
            f"({100 * self.whole.low:.2f} to {100 * self.whole.high:.2f}), "
            f"{100 * self.clean:.2f} without faults",
        )
        for heading in (self.kind, "share of bits %", "loss in points", percent, "trials"):
            table.add_column(heading, justify="left" if heading == self.kind else "right")
        for part in sorted(self.strata, key=lambda part: -part.loss.estimate):
            table.add_row(
                part.name,
                f"{100 * part.share:.2f}",
                f"{100 * part.loss.estimate:.2f}",
                f"{100 * part.loss.low:.2f} to {100 * part.loss.high:.2f}",
                f"{part.trials:,}",
            )
        return table

    def _repr_html_(self) -> str:
        from proact.report.notebook import sweep_html

        return sweep_html(self)


def per_layer(
    model: nn.Module,
    data: EvaluationData,
    fault: StoredFault = _ONE_FLIP,
    *,
    encoding: str | Encoding = "float32",
    margin: float | None = None,
    trials: int | None = None,
    confidence: float = 0.95,
    images_per_trial: int | Literal["auto", "all"] | None = "auto",
    metric: str | Metric = "top-1",
    seed: int = 0,
    store: str | Path | None = None,
    executor: Executor | int | None = None,
    progress: Progress = None,
    name: str = "network",
    notes: Mapping[str, Any] | None = None,
) -> Sweep:
    """How much is lost when ``fault`` hits one layer alone, for every layer that stores something.

    Args:
        model, data: as for `proact.campaign.run`.
        fault: what happens in each layer: ``ExactFlips(1)``, a single flip, asks which layer is the
            most vulnerable per fault; ``BitFlip(ber)`` per bit error rate. Its ``where`` and
            ``bits`` narrow the whole.
        margin: half the width of the interval of the whole, at which the sweep ends; 0.01 where
            neither this nor ``trials`` is given.
        trials: of all layers together; with a margin, the most. Every layer gets 32 first.
        encoding, confidence, images_per_trial, metric, seed, store, executor, progress, notes: as
            for `proact.campaign.run`.
        name: of the network, in tables and reports.

    Raises:
        What `proact.campaign.run` does.
    """
    encoded = encode(model, encoding)
    space = FaultSpace(encoded, encoding, fault.where, fault.bits)
    bits: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    for exposed in space:
        layer = exposed.stored.layer
        bits[layer] = bits.get(layer, 0) + exposed.bits
        names.setdefault(layer, []).append(exposed.name)
    strata = {
        layer: (replace(fault, where=tuple(_exactly(name) for name in names[layer])), bits[layer])
        for layer in bits
    }
    settings = Settings(
        encoding, metric, checked_images(images_per_trial), confidence, margin or 0.01, seed
    )
    order = _ordered("layer", fault, strata, margin, trials, notes)
    return _sweep({name: model}, data, strata, settings, order, store, executor, progress)


def per_bit(
    model: nn.Module,
    data: EvaluationData,
    fault: StoredFault = _ONE_FLIP,
    *,
    encoding: str | Encoding = "float32",
    margin: float | None = None,
    trials: int | None = None,
    confidence: float = 0.95,
    images_per_trial: int | Literal["auto", "all"] | None = "auto",
    metric: str | Metric = "top-1",
    seed: int = 0,
    store: str | Path | None = None,
    executor: Executor | int | None = None,
    progress: Progress = None,
    name: str = "network",
    notes: Mapping[str, Any] | None = None,
) -> Sweep:
    """How much is lost when ``fault`` hits one bit position of the words alone, for every position.

    Args and errors are those of `per_layer`. Words of fewer bits than others (a mixed network's)
    have no part in the positions that they lack.
    """
    encoded = encode(model, encoding)
    space = FaultSpace(encoded, encoding, fault.where, fault.bits)
    elements: dict[int, int] = {}
    having: dict[int, list[ExposedTensor]] = {}
    for exposed in space:
        for bit in exposed.bit_numbers:
            elements[bit] = elements.get(bit, 0) + exposed.elements
            having.setdefault(bit, []).append(exposed)
    strata: dict[str, tuple[StoredFault, int]] = {}
    for bit in sorted(elements):
        everywhere = len(having[bit]) == len(space)
        where = fault.where if everywhere else tuple(_exactly(e.name) for e in having[bit])
        strata[str(bit)] = (replace(fault, bits=(bit,), where=where), elements[bit])
    settings = Settings(
        encoding, metric, checked_images(images_per_trial), confidence, margin or 0.01, seed
    )
    fields = tuple(_field_of(having[int(bit)][0], int(bit)) for bit in strata)
    order = replace(_ordered("bit", fault, strata, margin, trials, notes), fields=fields)
    return _sweep({name: model}, data, strata, settings, order, store, executor, progress)


def _ordered(
    kind: Kind,
    fault: StoredFault,
    strata: Mapping[str, tuple[StoredFault, int]],
    margin: float | None,
    trials: int | None,
    notes: Mapping[str, Any] | None,
) -> Order:
    if margin is None and trials is None:
        margin = 0.01
    if trials is not None and trials < 1:
        raise ValueError(f"a sweep needs at least one trial, got {trials}")
    kept, parts = checked_notes(notes), tuple(strata)
    return Order(margin, trials, None, kind, str(fault), parts, notes=kept)


def _sweep(
    network: Mapping[str, nn.Module],
    data: EvaluationData,
    strata: Mapping[str, tuple[StoredFault, int]],
    settings: Settings,
    order: Order,
    store: str | Path | None,
    executor: Executor | int | None,
    progress: Progress,
) -> Sweep:
    margin, trials = order.margin, order.trials
    confidence = sweep_confidence(margin, settings.confidence)
    faults = [fault for fault, _ in strata.values()]
    shares = shares_of([bits for _, bits in strata.values()])
    executor = checked_executor(executor)
    with Session(network, data, faults, settings, order, store, executor, progress) as session:
        cells = session.cells
        first = _FIRST if trials is None else max(min(_FIRST, trials // len(cells)), 1)
        targets = [first] * len(cells)
        while True:
            session.work(_targets_of(cells, targets))
            found = [session.trials(cell) for cell in cells]
            # Trials that failed widen the intervals for good: more trials would not help.
            reached = stratified_mean(
                shares,
                [
                    trial_mean(replace(mine, failed=0), session.known(cell), confidence)
                    for mine, cell in zip(found, cells, strict=True)
                ],
            ).half_width
            if margin is not None and reached <= margin:
                break
            following = _next_round(session, found, shares, targets, reached, margin, trials)
            if following == targets:
                break
            targets = following
        result = session.result(None)
        parts = [
            stratum(name, share, mine, session.known(cell), confidence, session.is_better_higher)
            for name, share, mine, cell in zip(strata, shares, found, cells, strict=True)
        ]
        whole = stratified_mean(shares, [part.value for part in parts])
        (clean,) = result.clean.values()
        return Sweep(order.kind, parts, whole, clean, result)


def _targets_of(cells: Sequence[OpenCell], targets: Sequence[int]) -> Callable[[OpenCell], int]:
    wanted = {id(cell): target for cell, target in zip(cells, targets, strict=True)}
    return lambda cell: wanted[id(cell)]


def _next_round(
    session: Session,
    found: Sequence[Trials],
    shares: Sequence[float],
    targets: Sequence[int],
    half_width: float,
    margin: float | None,
    trials: int | None,
) -> list[int]:
    """More trials where they help most; the same where there are enough or no more to give."""
    # Cells in which nearly all trials failed were given up.
    open_cells = [cell.target == now for cell, now in zip(session.cells, targets, strict=True)]
    deviations = [
        max(deviation(mine, session.known(cell)), _LEAST_DEVIATION) if is_open else 0.0
        for mine, cell, is_open in zip(found, session.cells, open_cells, strict=True)
    ]
    if not any(open_cells):
        return list(targets)
    given = sum(targets)
    total = _GROWTH * given
    if margin is not None:
        # Spread falls with the root of the trials; a little more, so that rounds are few.
        total = min(total, int(1.1 * given * (half_width / margin) ** 2) + 1)
    if trials is not None:
        total = min(total, trials)
    if total <= given:
        return list(targets)
    wanted = optimal_allocation(shares, deviations, [1.0] * len(shares), total)
    more = [max(then - now, 0) for now, then in zip(targets, wanted, strict=True)]
    # Strata that had more than their share already leave less for the others.
    scale = min((total - given) / max(sum(more), 1), 1.0)
    following = [now + int(scale * extra) for now, extra in zip(targets, more, strict=True)]
    return [min(then, TRIALS - 1) for then in following]


def _field_of(exposed: ExposedTensor, bit: int) -> str | None:
    names = (name for name, mask in exposed.word.fields.items() if mask >> bit & 1)
    return next(names, None)


def _exactly(name: str) -> Where:
    """A selector of one tensor, whatever signs its name holds."""
    escaped = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
    return Where(escaped)
