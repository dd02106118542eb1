"""Several copies of a model's stored tensors, and one forward pass through all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from proact.campaign.stacked_norms import NormsOfOneModel


class StackedModel:
    """Copies of some tensors of a model, stacked along a new first dimension.

    Every copy holds the values of the model, except for those that `put` takes over, until `clear`.

    Args:
        model: in eval mode.
        names: of the parameters and buffers that are copied, at least one. The copies share the
            other ones, and what is computed before the first copied tensor is computed once.
        copies: the number of copies, at least 1.
        selected: selects a tensor from an output of the model.

    Attributes:
        copies: the number of copies.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Collection[str],
        copies: int,
        selected: Callable[[Any], Any],
    ) -> None:
        self.copies, self._model, self._selected = copies, model, selected
        members = members_of(model)
        self._own = {name: members[name].detach() for name in sorted(names)}
        # Tensors of inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._stacked = {
                name: tensor.unsqueeze(0).repeat(copies, *[1] * tensor.dim())
                for name, tensor in self._own.items()
            }
        self._copies = [{n: t[i] for n, t in self._stacked.items()} for i in range(copies)]
        #: By copy, the tensors that may differ from those of the model.
        self._put: dict[int, list[str]] = {}
        self._of_shared = vmap(self._output, in_dims=(0, None))
        self._of_each = vmap(self._output, in_dims=(0, 0))

    @property
    def names(self) -> list[str]:
        """The names of the copied tensors."""
        return list(self._own)

    def put(self, copy: int, names: Iterable[str]) -> None:
        """Take the model's present values of some tensors over into one copy."""
        self._put[copy] = list(names)
        self._take_over(copy)

    def set(self, copy: int, values: dict[str, Tensor]) -> None:
        """Write values into tensors of one copy."""
        self._put[copy] = list(values)
        for name, value in values.items():
            self._copies[copy][name].copy_(value)

    def clear(self) -> None:
        """Give all copies the values of the model, which has no faults now."""
        for copy in self._put:
            self._take_over(copy)
        self._put.clear()

    def outputs(self, inputs: Tensor, is_shared: bool) -> Tensor:
        """Return the selected output of each copy, (copies, ...).

        Args:
            inputs: a batch that all copies get, or one for each of them, (copies, ...). The model
                may write to it.
            is_shared: whether all copies get one batch.

        Raises:
            Exception: the model raises, or cannot run several copies at once.
        """
        run = self._of_shared if is_shared else self._of_each
        outputs: Tensor = run(self._stacked, inputs)
        return outputs

    def output_with(self, values: dict[str, Tensor], inputs: Tensor) -> Any:
        """Return the selected output of the model with other values of its tensors."""
        return self._output(values, inputs)

    def values(self) -> dict[str, Tensor]:
        """Return a copy of the model's values of the copied tensors."""
        return {name: tensor.clone() for name, tensor in self._own.items()}

    def _take_over(self, copy: int) -> None:
        names = self._put[copy]
        if names:
            mine = self._copies[copy]
            torch._foreach_copy_([mine[n] for n in names], [self._own[n] for n in names])

    def _output(self, values: dict[str, Tensor], inputs: Tensor) -> Any:
        with NormsOfOneModel():
            output = functional_call(self._model, values, (inputs,))
        return self._selected(output)


def members_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by their first names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
