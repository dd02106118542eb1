"""Logits and accuracy of models, and checks that a model fits its data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.data import Split, as_evaluation
from proact.data.dataset import SamplesOrData
from proact.nn.batches import Batch, cloned, named_leaves, samples_in, split_batch
from proact.nn.forward import DEFAULT, Forward, ForwardLike, as_forward, logits_of
from proact.nn.model_kinds import refuse_lazy
from proact.nn.site import eval_mode
from proact.nn.written_state import restored
from proact.shortages import shortage

_BATCH = 512


def logits(
    model: nn.Module, inputs: Batch, batch: int = _BATCH, forward: ForwardLike = DEFAULT
) -> Tensor:
    """Compute the logits of all inputs in the model's current mode, without autograd.

    Args:
        model: call ``model.eval()`` first if its mode matters. State that its forward writes stays.
        inputs: a tensor (n, ...), or a tuple or mapping of such tensors.
        batch: the number of inputs in one forward pass, at least 1. A single input that would be
            left over joins the pass before it.
        forward: maps (model, batch) to the output, for models that take their inputs otherwise.

    Returns:
        (n, ...), such as (n, classes), with the model's dtype.

    Raises:
        ValueError, TypeError: an argument out of range or of another type, or an output without
            logits (`proact.nn.forward.logits_of`). Errors of the model itself pass through.
    """
    forward = as_forward(forward)
    with torch.no_grad():
        # Models may write to their inputs.
        parts = (cloned(part) for part in split_batch(inputs, batch))
        return torch.cat([forward.logits(model, part) for part in parts])


def accuracy(model: nn.Module, data: SamplesOrData, forward: ForwardLike = DEFAULT) -> float:
    """Return the top-1 accuracy in [0, 1], in the model's current mode.

    As in campaigns, outputs that hold NaN or infinity count as wrong.

    Args:
        model: gives logits (n, classes).
        data: samples with class labels (n,) int64 in one of the forms of `proact.data.as_split`,
            or a `proact.data.Data`, whose test split is taken.
        forward: as for `logits`.

    Raises:
        ValueError, TypeError: the data, the labels or the model's output have another form.
    """
    split = as_evaluation(data)
    labels = split.labels
    parts = (inputs for inputs, _ in split.batches(_BATCH))
    scores = torch.cat([logits(model, part, samples_in(part), forward) for part in parts])
    check_fit(scores, labels)
    right = (scores.argmax(1) == labels) & torch.isfinite(scores).all(1)
    return int(right.sum()) / len(split)


def refuse_masked(logits: Tensor, judge: str, name: str) -> None:
    """ValueError if logits (..., classes) mask a class by minus infinity in every sample.

    Args:
        judge: what takes an infinite logit for a failure, as the subject of a sentence.
        name: of the model.
    """
    masked = torch.isneginf(logits).flatten(0, -2).all(0).nonzero().flatten().tolist()
    if masked:
        raise ValueError(
            f"{judge} counts outputs that hold infinity as wrong, and {name} gives minus infinity "
            f"for class {masked[0]} of the first samples: make it finite with output=, such as "
            "lambda y: y.clamp(min=-1e4), or give a metric of your own"
        )


def check_fit(output: Tensor, labels: Tensor, name: str = "the model") -> None:
    """Raise ValueError unless ``output`` is (images, classes) with a class for every label."""
    highest = int(labels.max())
    if output.dim() != 2 or output.shape[1] <= highest:
        raise ValueError(
            f"labels go up to {highest}, so the model's output is (images, classes) with more "
            f"classes than that; {name} gives {tuple(output.shape)}"
        )


def check_runs(
    model: nn.Module, inputs: Batch, name: str = "the model", forward: Forward = DEFAULT
) -> Tensor:
    """Compute the logits in eval mode.

    Raises:
        ValueError: ``model`` does not accept the inputs.
        TypeError: the output has no logits (see `proact.nn.forward.logits_of`).
    """
    return logits_of(run_checked(model, inputs, name, forward))


def run_checked(
    model: nn.Module, inputs: Batch, name: str = "the model", forward: Forward = DEFAULT
) -> object:
    """Return the selected output in eval mode.

    Raises:
        ValueError: ``model`` has a lazy layer without a shape, does not accept the inputs, or its
            output lacks the selected part.
    """
    refuse_lazy(model)
    try:
        with eval_mode(model), torch.no_grad(), restored(model):
            output = forward.raw(model, cloned(inputs))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if shortage(error) is not None:
            raise  # the machine is too small, whatever the inputs are
        samples = samples_in(inputs)
        tried = "one image" if samples == 1 else f"{samples} images"
        raise ValueError(
            f"{name} does not take inputs of shape {_shapes(inputs)}, tried for {tried}: {error}"
        ) from error
    return forward.selected(output)


def check_takes(
    model: nn.Module, split: Split, name: str = "the model", forward: Forward = DEFAULT
) -> None:
    """Raise ValueError unless ``model`` accepts ``split`` and its output fits the labels."""
    check_fit(check_runs(model, examples(split), name, forward), split.labels, name)


def examples(split: Split) -> Batch:
    """The inputs of two samples if there are two, because some models take no single sample."""
    inputs, _ = next(split.first(2).batches(2))
    return inputs


def _shapes(inputs: Batch) -> str:
    shapes = {
        place: f"(samples{''.join(f', {size}' for size in tensor.shape[1:])}) {tensor.dtype}"
        for place, tensor in named_leaves(inputs).items()
        if isinstance(tensor, Tensor)
    }
    return ", ".join(f"{shape} at {place}" if place else shape for place, shape in shapes.items())
