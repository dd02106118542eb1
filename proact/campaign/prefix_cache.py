"""What need not be computed again: activations that no fault has reached.

With fixed images, everything before the first flipped tensor comes out as without faults. The
network is cut at a few modules, what crosses each cut is kept, and a trial goes on from the last
cut that all of its flips lie behind. `proact.nn.graph_cut` holds both halves to the whole's
outputs, to the bit; batches keep their boundaries, since another batch size may sum in another
order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from proact.faults.record import Record
from proact.nn.graph_cut import cut_at
from proact.nn.outputs import logits_of
from proact.nn.tensor_inventory import stored_tensors

#: Bytes of kept activations, of all cuts of a network.
MEMORY = 1 << 30
_CUTS = 6


@dataclass(frozen=True, eq=False)
class _Kept:
    """One cut: what crosses it, batch by batch, and the stored tensors that lie before it."""

    after: fx.GraphModule
    crossing: list[tuple[Tensor, ...]]
    before: frozenset[str]


class Prefixes:
    """Runs a network on fixed inputs, from as late as its faults allow.

    Args:
        model: in eval mode. A network with hooks, such as weight-range's, or one that torch.fx does
            not follow, always runs whole.
        batches: its inputs, in the portions in which they run.
    """

    def __init__(self, model: nn.Module, batches: list[Tensor]) -> None:
        self._model, self._batches = model, batches
        self._kept = _kept(model, batches)

    @property
    def cuts(self) -> int:
        """At how many places a trial can go on."""
        return len(self._kept)

    def outputs(self, record: Record) -> Tensor:
        """The outputs under the faults that ``record`` is about, which are in place."""
        hit = record.counts("tensor").keys() if self._kept else ()
        for kept in self._kept:
            if kept.before.isdisjoint(hit):
                # Activation functions may write to their inputs.
                parts = [kept.after(*(t.clone() for t in crossing)) for crossing in kept.crossing]
                break
        else:
            parts = [self._model(batch.clone()) for batch in self._batches]
        outputs = [logits_of(part) for part in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _kept(model: nn.Module, batches: list[Tensor]) -> list[_Kept]:
    """The cuts of a network that fit into memory, the last first."""
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return []
    kept: list[_Kept] = []
    room = MEMORY
    names = {name: stored.name for stored in stored_tensors(model) for name in stored.names}
    for module in _cut_places(model, batches[0][:2]):
        cut = cut_at(model, module, batches[0][:2])
        if cut is None:
            continue
        with torch.inference_mode():
            first = cut.before(batches[0].clone())
            wanted = sum(t.nbytes for t in first) * len(batches)
            if wanted > room:
                continue
            crossing = [first, *(cut.before(batch.clone()) for batch in batches[1:])]
        room -= wanted
        kept.append(_Kept(cut.after, crossing, frozenset(_stored_in(cut.before, names))))
    return kept


def _cut_places(model: nn.Module, examples: Tensor) -> list[nn.Module]:
    """Modules with numbers of their own, evenly spread over the order in which they run; the last
    first."""
    order: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: order.append(module))
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.inference_mode():
            model(examples.clone())
    finally:
        for hook in hooks:
            hook.remove()
    once = [module for module in order if order.count(module) == 1][1:]
    step = max(len(once) / _CUTS, 1.0)
    chosen = [once[int(i * step)] for i in range(min(_CUTS, len(once)))]
    if once and chosen[-1] is not once[-1]:
        chosen.append(once[-1])
    return chosen[::-1]


def _stored_in(graph: fx.GraphModule, names: dict[str, str]) -> set[str]:
    """The stored tensors that the nodes of a graph read, by the names under which faults know
    them."""
    found = set()
    for node in graph.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        target = str(node.target)
        found |= {
            stored
            for name, stored in names.items()
            if name == target or name.startswith(f"{target}.")
        }
    return found
