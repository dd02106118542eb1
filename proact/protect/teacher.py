"""The soft targets of training: what the unclipped model gives to the training samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proact.data import Split
from proact.models.evaluation import logits
from proact.nn.batches import cloned, take
from proact.protect.objective import Objective, class_dimension

#: Probabilities that take more bytes are computed again in each step.
_MOST_BYTES = 1 << 30


class Teacher:
    """The probabilities over classes that an unclipped model gives to samples.

    They are computed once if they take at most 1 GiB.

    Args:
        model: the unclipped model, in eval mode.
        samples: with their targets.
        objective: runs the model.

    Attributes:
        is_defined: whether a dimension of the logits counts classes.
    """

    def __init__(self, model: nn.Module, samples: Split, objective: Objective) -> None:
        self._model, self._inputs, self._forward = model, samples.inputs, objective.forward
        self._kept: Tensor | None = None
        first = torch.arange(min(2, len(samples)))
        output = self._logits(first)
        self._dimension = class_dimension(output, take(samples.targets, first))
        self.is_defined = self._dimension is not None
        if output.nbytes // len(output) * len(samples) <= _MOST_BYTES and self.is_defined:
            whole = logits(model, self._inputs, forward=self._forward)
            self._kept = self._softmax(whole)

    def probabilities(self, indices: Tensor) -> Tensor | None:
        """The probabilities of the samples at ``indices``, in the shape of the logits.

        None where they are not defined.
        """
        if not self.is_defined:
            return None
        if self._kept is not None:
            return self._kept[indices]
        return self._softmax(self._logits(indices))

    def _logits(self, indices: Tensor) -> Tensor:
        with torch.no_grad():
            return self._forward.logits(self._model, cloned(take(self._inputs, indices)))

    def _softmax(self, output: Tensor) -> Tensor:
        assert self._dimension is not None
        return output.softmax(self._dimension)
