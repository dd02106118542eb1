"""The state of a model's memory: shows whether torch has moved, replaced or written it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from proact.nn.inner_tensors import attributes_of, inner_tensors
from proact.nn.tensor_inventory import named_scales_beside
from proact.ops.plain_memory import model_watch


class _OptimizerSteps:
    """Counts the steps of all optimizers: fused ones change parameters without raising torch's
    version counters."""

    made = 0

    def count(self, *_: object) -> None:
        self.made += 1


_OPTIMIZER_STEPS = _OptimizerSteps()
register_optimizer_step_post_hook(_OPTIMIZER_STEPS.count)


class ModelState:
    """The module tree of a model with the memory of its tensors, at one time.

    A state keeps neither the model nor its modules alive.
    """

    def __init__(self, model: nn.Module) -> None:
        #: The native form of the layout, which is compared in microseconds; None if there is none.
        self._watch: Any = None if any(named_scales_beside(model)) else model_watch(model)
        self._layout = _layout(model) if self._watch is None else []
        tensors = self._tensors(model)
        self._addresses = [_address(tensor) for tensor in tensors]
        self._versions = [_version(tensor) for tensor in tensors]
        self._steps = _OPTIMIZER_STEPS.made

    def has_same_memory(self, model: nn.Module) -> bool:
        """Whether the same modules hold tensors of the same names, places and shapes."""
        if self._watch is not None:
            found: bool = self._watch.matches(model)
            return found
        return self._layout == _layout(model)

    def still_holds(self, model: nn.Module, addresses: list[int]) -> bool:
        """Whether the same modules hold the tensors that `has_same_memory` saw last.

        Of the tensors that stayed the same objects, only those at the given addresses are looked
        at. This takes half of the time.
        """
        if self._watch is not None:
            found: bool = self._watch.still_holds(model, addresses)
            return found
        return self.has_same_memory(model)

    def has_same_values(self, model: nn.Module) -> bool:
        """Whether, besides, nothing has written to the tensors.

        A write that bypasses torch's version counters (``.data``, numpy) is not noticed.
        """
        return (
            self._steps == _OPTIMIZER_STEPS.made
            and self.has_same_memory(model)
            and self._versions == [_version(tensor) for tensor in self._tensors(model)]
        )

    def note_restored(self, tensors: Iterable[Tensor], marks: int) -> None:
        """Records that the tensors hold their former values although their version counters were
        raised ``marks`` times."""
        now = {_address(tensor): _version(tensor) for tensor in tensors}
        for position, address in enumerate(self._addresses):
            version = self._versions[position]
            # A tied tensor has several positions; another one over its memory has its own counter.
            if isinstance(version, int) and now.get(address) == version + marks:
                self._versions[position] = version + marks

    def _tensors(self, model: nn.Module) -> list[Tensor]:
        if self._watch is not None:
            tensors: list[Tensor] = self._watch.tensors(model)
            return tensors
        return [
            inner
            for module in model.modules()
            for members in (module._parameters, module._buffers)
            for tensor in members.values()
            if tensor is not None
            for _, inner in inner_tensors("", tensor, module)
        ]


def _layout(model: nn.Module) -> list[object]:
    """The module tree with the names, places and shapes of its tensors, for any model."""
    layout: list[object] = []
    pending = [model]
    while pending:
        module = pending.pop()
        for members in (module._parameters, module._buffers):
            for name, tensor in members.items():
                if tensor is None:
                    continue
                for inner_name, inner in inner_tensors(name, tensor, module):
                    place: tuple[object, ...] = (_address(inner), inner.dtype)
                    if not inner.is_nested:  # whose components have shapes of their own
                        place = (*place, inner.shape)
                    if _is_strided(inner):
                        place = (*place, inner.stride())
                    layout.append((inner_name, id(tensor), *place))
                if attributes_of(tensor):
                    layout.append(type(tensor))
        children = [(name, child) for name, child in module._modules.items() if child is not None]
        layout.append(len(children))
        for name, child in children:
            layout.append(name)
            pending.append(child)
    return layout


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


def _address(tensor: Tensor) -> int:
    """The address of a tensor; 0 if it has no single one."""
    if not _is_strided(tensor):
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def _version(tensor: Tensor) -> object:
    try:
        return tensor._version
    except RuntimeError:  # inference tensors have no version counter
        return object()
