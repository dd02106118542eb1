"""Prefix caches: run a model from a cut on, with the activations at the cut computed only once.

Threshold training and fault injection repeat forward passes over fixed inputs while the first
layers stay the same. Training changes the threshold of one site, so a `PrefixCache` keeps the
activations at this site. A trial changes the tensors that faults hit, so a `MultiCutCache` keeps
several cuts, and continues at the last cut before all of these tensors. Caches that share a
`MemoryBudget` together keep no more than its limit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from proact.nn.batches import Batch, cloned, samples_in, split_batch, take, tensors_in
from proact.nn.forward import DEFAULT, Forward, logits_of
from proact.nn.graph_cut import GraphCut, TracedModel
from proact.nn.stored_memory import StoredReads
from proact.nn.written_state import written_state

#: The number of cuts that a `MultiCutCache` spreads over a model, besides the last layer.
_CUTS = 6


class MemoryBudget:
    """A number of bytes that several caches share.

    Args:
        limit: the most bytes that the caches may hold at a time, 0 or more.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit

    def reserve(self, wanted: int) -> bool:
        """Takes ``wanted`` bytes if as many are left; returns whether it did."""
        if wanted > self.left:
            return False
        self.left -= wanted
        return True

    def release(self, taken: int) -> None:
        """Returns bytes that were reserved."""
        self.left += taken


class PrefixCache:
    """The outputs of a model for fixed inputs, computed from a cut on.

    The tensors that cross the cut are computed once, when they are first needed, and kept if the
    budget suffices; otherwise each call computes them again. Until `close`, the part of the model
    before the cut must not change, unless `fill` was called before the change.

    Args:
        model: in eval mode.
        cut: where to continue; None runs the whole model in each call.
        inputs: a batch with all samples.
        budget: the memory of the kept tensors is reserved from it until `close`.
        batch: the number of samples that run at a time, when the cache is filled and in `outputs`.
            (Another batch size may sum in another order.)
        forward: runs the model.

    Attributes:
        cut: where to continue.
        bytes: reserved for the kept tensors; 0 if the budget did not suffice.
    """

    def __init__(
        self,
        model: nn.Module,
        cut: GraphCut | None,
        inputs: Batch,
        budget: MemoryBudget,
        *,
        batch: int = 256,
        forward: Forward = DEFAULT,
    ) -> None:
        self._model, self.cut, self._inputs, self._batch = model, cut, inputs, batch
        self._forward, self._samples = forward, samples_in(inputs)
        self._budget = budget
        self._kept: list[_KeptTensor] = []
        self._filled = 0  # batches
        self.bytes = 0
        if cut is not None:
            self._reserve()

    def outputs_at(self, indices: Tensor) -> Tensor:
        """The logits of the inputs at ``indices``, (indices, ...).

        Gradients flow back to the cut, and through the whole model where it was not cut.
        """
        if self.cut is None:
            return self._forward.logits(self._model, take(self._inputs, indices))
        self.fill()
        if self._kept:
            crossing = [kept.at(indices) for kept in self._kept]
        else:
            crossing = self._crossing(take(self._inputs, indices))
        return logits_of(self.cut.after(*crossing))

    def outputs(self) -> Iterator[Tensor]:
        """The logits of all inputs in order, one batch at a time.

        The batches are those in which the cache was filled, and the kept tensors enter the model
        with the strides that they had then, so that the outputs equal those of the whole model bit
        by bit.
        """
        for number, batch in enumerate(self.batches()):
            # The model gets copies, because activation functions may write to their inputs.
            if self.cut is None:
                yield self._forward.logits(self._model, cloned(batch))
                continue
            if self.bytes and number == self._filled:
                self.keep(self._crossing(cloned(batch)))
            if self.bytes:
                crossing = [kept.batch(number) for kept in self._kept]
            else:
                crossing = self._crossing(cloned(batch))
            yield logits_of(self.cut.after(*crossing))

    def fill(self) -> None:
        """Computes and keeps the tensors of all inputs, if the budget sufficed."""
        if not self.bytes or self._filled * self._batch >= self._samples:
            return
        for number, batch in enumerate(self.batches()):
            if self.bytes and number == self._filled:
                self.keep(self._crossing(cloned(batch)))

    def close(self) -> None:
        """Frees the kept tensors and their budget; later calls compute them again."""
        self._budget.release(self.bytes)
        self._kept, self.bytes = [], 0

    def batches(self) -> Iterator[Batch]:
        """The inputs as they run, one batch at a time."""
        yield from split_batch(self._inputs, self._batch)

    def _crossing(self, batch: Batch) -> list[Tensor]:
        assert self.cut is not None
        with torch.no_grad():
            return list(self.cut.before(*tensors_in(batch)))

    def _reserve(self) -> None:
        few = min(2, self._samples)  # some models take no single sample
        some = self._crossing(cloned(take(self._inputs, slice(0, few))))
        wanted = self._samples * sum(tensor.nbytes for tensor in some) // few
        if self._budget.reserve(wanted):
            self.bytes = wanted

    def keep(self, crossing: list[Tensor]) -> None:
        """Keeps the tensors of the next batch; frees all where a shape depends on the batch."""
        if not self._kept:
            self._kept = [_KeptTensor(t, self._samples) for t in crossing]
        if not all(map(_KeptTensor.fits, self._kept, crossing)):
            self.close()
            return
        for kept, tensor in zip(self._kept, crossing, strict=True):
            kept.append(tensor)
        self._filled += 1


def fill_together(traced: TracedModel, caches: Sequence[PrefixCache]) -> None:
    """Fills the caches of several cuts by one pass over their inputs, if one pass can do it.

    Args:
        traced: the model whose cuts they have.
        caches: of the same inputs; those without memory are left out.
    """
    kept = [cache for cache in caches if cache.bytes]
    if not kept:
        return
    before = traced.before_all([cache.cut for cache in kept if cache.cut is not None])
    if before is None:
        return
    for batch in kept[0].batches():
        with torch.no_grad():
            found = before(*tensors_in(cloned(batch)))
        for cache, crossing in zip(kept, found, strict=True):
            if cache.bytes:
                cache.keep(list(crossing))


class MultiCutCache:
    """The outputs of a model for fixed inputs, continued behind the last tensor that is unchanged.

    The model is cut before some of its layers, the last layers first as long as the budget lasts.

    Args:
        model: in eval mode. A model with hooks, or one that torch.fx cannot follow, has no cuts
            and always runs whole.
        inputs: a batch with all samples.
        budget: the memory of the kept tensors is reserved from it until `close`.
        batch: the number of samples that run at a time.
        forward: runs the model.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Batch,
        budget: MemoryBudget,
        batch: int,
        forward: Forward = DEFAULT,
    ) -> None:
        self._whole = PrefixCache(model, None, inputs, budget, batch=batch, forward=forward)
        #: Each cache with the names of the stored tensors that lie before its cut.
        self._caches: list[tuple[PrefixCache, frozenset[str]]] = []
        if not can_be_cut(model):
            return
        reads = StoredReads(model)
        examples = take(inputs, slice(0, min(batch, 2)))
        layers = _spread_layers(model, examples, forward)
        traced = TracedModel(model, examples, forward) if layers else None
        for layer in layers:
            cut = traced.cut_at(layer) if traced is not None else None
            if cut is not None:
                cache = PrefixCache(model, cut, inputs, budget, batch=batch, forward=forward)
                cache.fill()
                if cache.bytes:
                    self._caches.append((cache, reads.of(cut.before)))

    @property
    def cuts(self) -> int:
        """The number of cuts whose activations are kept."""
        return len(self._caches)

    @property
    def bytes(self) -> int:
        """The bytes that are kept."""
        return sum(cache.bytes for cache, _ in self._caches)

    def outputs(self, changed: Collection[str]) -> Tensor:
        """The logits of all inputs, (samples, ...), equal to the whole model's bit by bit.

        Args:
            changed: the names of all stored tensors (`proact.nn.tensor_inventory`) that differ now
                from their values when the cache was built.
        """
        usable = (cache for cache, before in self._caches if before.isdisjoint(changed))
        batches = list(next(usable, self._whole).outputs())
        return batches[0] if len(batches) == 1 else torch.cat(batches)

    def close(self) -> None:
        """Frees the kept tensors and their budget; later calls run the whole model."""
        for cache, _ in self._caches:
            cache.close()
        self._caches = []


def can_be_cut(model: nn.Module) -> bool:
    """Whether a model has neither hooks nor state that its forward writes.

    A cut would leave out hooks of modules whose calls it divides, and would leave state behind.
    """
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return False
    return not written_state(model)


class _KeptTensor:
    """One of the tensors that cross a cut, for all samples.

    Memory is in the order that the model produced: channels last if the tensor had them last.
    """

    def __init__(self, first: Tensor, samples: int) -> None:
        self._is_channels_last = (
            first.dim() == 4
            and not first.is_contiguous()
            and first.is_contiguous(memory_format=torch.channels_last)
        )
        shape = self._to_memory(first).shape[1:]
        self.memory = torch.empty((samples, *shape), dtype=first.dtype, device=first.device)
        self._filled = 0
        self._batches: list[tuple[int, int, tuple[int, ...]]] = []  # start, end, strides

    def fits(self, batch: Tensor) -> bool:
        return self._to_memory(batch).shape[1:] == self.memory.shape[1:]

    def append(self, batch: Tensor) -> None:
        start, self._filled = self._filled, self._filled + len(batch)
        self.memory[start : self._filled] = self._to_memory(batch)
        # Overlapping tensors get the strides that a copy of them has.
        self._batches.append((start, self._filled, torch.empty_like(batch).stride()))

    def at(self, indices: Tensor) -> Tensor:
        return self._from_memory(self.memory[indices])

    def batch(self, number: int) -> Tensor:
        """A copy of a batch that was appended, with its strides."""
        start, end, strides = self._batches[number]
        kept = self._from_memory(self.memory[start:end])
        return torch.empty_strided(kept.shape, strides, dtype=kept.dtype, device=kept.device).copy_(
            kept
        )

    def _to_memory(self, tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1) if self._is_channels_last else tensor

    def _from_memory(self, tensor: Tensor) -> Tensor:
        return tensor.permute(0, 3, 1, 2) if self._is_channels_last else tensor


def _spread_layers(model: nn.Module, examples: Batch, forward: Forward) -> list[nn.Module]:
    """Layers with parameters, evenly spread over the order of execution, the last one first."""
    order: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: order.append(module))
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.no_grad():
            forward(model, cloned(examples))
    finally:
        for hook in hooks:
            hook.remove()
    # Nothing is saved by a cut before the first layer.
    once = [module for module in order if order.count(module) == 1][1:]
    step = max(len(once) / _CUTS, 1.0)
    chosen = [once[int(i * step)] for i in range(min(_CUTS, len(once)))]
    if once and chosen[-1] is not once[-1]:
        chosen.append(once[-1])
    return chosen[::-1]
