"""Counts over the images of a trial: correct predictions, deviations from golden outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from proact.nn.outputs import dense, output_tensors
from proact.results.metric_info import HIGHEST_LOSS

#: Increase this when a column of a row changes its meaning.
COLUMNS_VERSION = 5
TOP = 5

# The number of columns without labels, and the positions of the columns that need labels.
_CLASSES, _CORRECT, _TOP5, _LOSS = 5, 5, 6, 7


class Counts(NamedTuple):
    """Counts over the images of one trial.

    A field is None if the outputs are not logits of classes, or if it needs labels and there are no
    labels. The SDC (silent data corruption) counts follow the severities of G. Li et al.,
    "Understanding error propagation in deep learning neural network (DNN) accelerators and
    applications", SC 2017. A non-finite output counts in every severity, and so does a forward pass
    that raised an error. Images whose golden output is non-finite already count in none.

    Attributes:
        correct, top5: images whose label has the highest, or one of the five highest logits.
        loss: mean cross-entropy in nats, with at most 20 nats per image.
        agreeing: images whose prediction equals the golden one; the others are SDC-1.
        sdc5: images whose golden prediction is not among the five highest logits.
        sdc10, sdc20: images whose highest softmax value differs by more than 10 (20) percent from
            the golden value.
        non_finite: images whose output, but not the golden one, holds NaN or infinity, a failure
            that can be detected.
        raised: images whose forward pass raised an error, a failure that is detected.
    """

    correct: int | None
    top5: int | None
    loss: float | None
    agreeing: int | None
    sdc5: int | None
    sdc10: int | None
    sdc20: int | None
    non_finite: int
    raised: int = 0


def computable(logits: Tensor) -> Tensor:
    """Return logits in the dtype in which a loss is computed: float32, or float64 for float64.

    Finite logits of float64 can be infinite in float32.
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def reference_of(clean: Tensor) -> Tensor:
    """Summarise golden outputs (n, classes) for `class_columns`.

    Returns:
        (n, 3) float64: the prediction, the highest softmax value, and 1 if all logits are finite,
        else 0.
    """
    confidence = computable(clean).softmax(1).amax(1)
    columns = (clean.argmax(1), confidence, torch.isfinite(clean).all(1))
    return torch.stack([column.to(torch.float64) for column in columns], dim=1)


def class_columns(output: Tensor, labels: Tensor | None, reference: Tensor) -> Tensor:
    """Compare outputs (m, classes) with ``reference``, the rows (m, 3) of `reference_of`.

    Returns:
        (m, 5) float64, or (m, 8) with labels: the addends of `Counts` for each image.
    """
    finite, was_finite = torch.isfinite(output).all(1), reference[:, 2] != 0.0
    top = output.topk(min(TOP, output.shape[1])).indices
    # topk and argmax may break ties differently; argmax defines the prediction.
    predicted, expected = output.argmax(1), reference[:, 0]
    agrees = predicted == expected
    logarithms = computable(output).log_softmax(1)
    change = (logarithms.amax(1).exp() / reference[:, 1] - 1.0).abs()
    columns = [
        # Where the golden output is non-finite, nothing is left to be corrupted.
        ~was_finite | (finite & agrees),
        was_finite & ~(finite & (agrees | (top == expected[:, None]).any(1))),
        was_finite & ~(finite & (change <= 0.1)),
        was_finite & ~(finite & (change <= 0.2)),
        was_finite & ~finite,
    ]
    if labels is not None:
        correct_mask = finite & (predicted == labels)
        loss = -logarithms.gather(1, labels[:, None])[:, 0]
        loss = torch.where(finite, loss, HIGHEST_LOSS).clamp(max=HIGHEST_LOSS)
        in_top5 = correct_mask | (finite & (top == labels[:, None]).any(1))
        columns += [correct_mask, in_top5, loss]
    return torch.stack([column.to(torch.float64) for column in columns], dim=1)


def finite_rows(output: Any, samples: int) -> Tensor:
    """Say which of the ``samples`` outputs, in any tree, are finite: (m, 1) float64, 1 or 0."""
    finite: Tensor | None = None
    for tensor in map(dense, output_tensors(output)):
        if not (tensor.is_floating_point() and tensor.numel()):
            continue
        if tensor.dim() and len(tensor) == samples:
            here = torch.isfinite(tensor).reshape(samples, -1).all(1)
        else:  # a part that belongs to no sample alone
            here = torch.isfinite(tensor).all().expand(samples)
        finite = here if finite is None else finite & here.to(finite.device)
    if finite is None:
        return torch.ones((samples, 1), dtype=torch.float64)
    return finite[:, None].to(torch.float64)


def other_columns(output: Any, samples: int, reference: Tensor) -> Tensor:
    """Compare outputs that are not logits of classes with ``reference``, their clean `finite_rows`.

    Returns:
        (m, 1) float64: the addend of ``non_finite`` for each sample.
    """
    finite = finite_rows(output, samples).to(reference.device)
    return reference * (1.0 - finite)


def raised_columns(samples: int, like: Tensor) -> Tensor:
    """Return the columns of ``samples`` images whose forward pass raised: the worst of each."""
    columns = like.new_zeros((samples, like.shape[1]))
    if like.shape[1] >= _CLASSES:
        columns[:, 1:4] = 1.0
    if like.shape[1] > _LOSS:
        columns[:, _LOSS] = HIGHEST_LOSS
    return columns


def counts_from(sums: list[float], samples: int, raised: int = 0) -> Counts:
    """Make counts of the sums over the columns of all ``samples`` images of a trial."""
    if len(sums) < _CLASSES:
        return Counts(None, None, None, None, None, None, None, int(sums[0]), raised)
    agreeing, sdc5, sdc10, sdc20, non_finite = map(int, sums[:_CLASSES])
    if len(sums) == _CLASSES:
        return Counts(None, None, None, agreeing, sdc5, sdc10, sdc20, non_finite, raised)
    correct, top5 = map(int, sums[_CORRECT : _TOP5 + 1])
    loss = sums[_LOSS] / samples
    return Counts(correct, top5, loss, agreeing, sdc5, sdc10, sdc20, non_finite, raised)


def class_values(columns: Tensor, metric: str) -> Tensor:
    """Return the values (m,) of a built-in metric of classes from `class_columns`."""
    if metric == "sdc":
        return 1.0 - columns[:, 0]
    return columns[:, {"top-1": _CORRECT, "top-5": _TOP5, "loss": _LOSS}[metric]]
