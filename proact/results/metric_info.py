"""The built-in metrics, described without computing them: names, units, ranges.

`proact.campaign.built_in_metrics` computes them; help pages, tables and axes read this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Cross-entropy in nats that counts as the worst of an image; one that is not finite counts so too.
HIGHEST_LOSS = 20.0


@dataclass(frozen=True)
class MetricInfo:
    """One built-in metric.

    Attributes:
        label: its name in tables and on axes.
        unit: of a value; empty for shares, which are shown in percent.
        lowest, highest: the ends of the range of its values, included.
        is_better_higher: whether a higher value is the better one.
    """

    label: str
    unit: str = ""
    lowest: float = 0.0
    highest: float = 1.0
    is_better_higher: bool = True


BUILT_IN_METRICS: Mapping[str, MetricInfo] = {
    "top-1": MetricInfo("top-1 accuracy"),
    "top-5": MetricInfo("top-5 accuracy"),
    "loss": MetricInfo("cross-entropy", "nats", highest=HIGHEST_LOSS, is_better_higher=False),
    "sdc": MetricInfo("silent data corruption", is_better_higher=False),
    "token-accuracy": MetricInfo("token accuracy"),
    "token-loss": MetricInfo(
        "loss per token", "nats", highest=HIGHEST_LOSS, is_better_higher=False
    ),
    "mean-iou": MetricInfo("mean IoU"),
    "mean-average-precision": MetricInfo("mean average precision"),
    "cosine": MetricInfo("cosine to the golden output", lowest=-1.0),
}
