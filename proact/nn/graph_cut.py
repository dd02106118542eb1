"""Cut a model at one of its modules: the part before the cut, and the part that depends on it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from proact.nn.batches import Batch, cloned, samples_in, take, tensors_in
from proact.nn.folded_batch_norm import with_folded_batch_norm
from proact.nn.forward import DEFAULT, Forward, logits_of
from proact.nn.hyrelu import HyReLU
from proact.nn.live_tracer import LiveTracer
from proact.nn.memory_writes import MemoryWrite, memory_writes
from proact.nn.stored_memory import StoredMemory


@dataclass(frozen=True, eq=False)
class GraphCut:
    """Two graph modules that compute, one after the other, what the whole model computes.

    Both call the modules of the model itself, so a change of a parameter shows in both.

    Attributes:
        before: maps the tensors of an input batch, in the order of
            `proact.nn.batches.tensors_in`, to a tuple of tensors, each (samples, ...): the input of
            the module at the cut, and every other tensor that is computed without this module and
            read after it (shortcuts).
        after: maps these tensors to the output of the model.
        crossing: the nodes of the model's graph whose values are these tensors.
    """

    before: fx.GraphModule
    after: fx.GraphModule
    crossing: tuple[fx.Node, ...]


class TracedModel:
    """A model that torch.fx has traced once, ready to be cut at any of its modules.

    Args:
        model: in eval mode and deterministic. Parameters and buffers may change later; the modules
            and their order of execution may not. A model whose forward makes constants of stored
            tensors (``float(buffer)``), or writes to a tensor in place and reads it later under
            the name that it had before (``h.clamp_(max=6)`` as a statement), cannot be cut.
        examples: two or more inputs, a batch. Values in it that are no tensors are fixed.
        forward: runs the model.
        fold: whether batch norms are folded into the convolutions before them, which is faster, and
            equal up to rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Batch,
        forward: Forward = DEFAULT,
        fold: bool = False,
    ) -> None:
        self._model, self._examples, self._forward = model, examples, forward
        self._graph: fx.Graph | None = None
        # torch.fx follows the forward of the class, not one that was set on the instance.
        if "forward" in vars(model):
            return
        # A list with an element for each sample has no fixed number of tensors.
        if len(tensors_in(take(examples, slice(0, 1)))) != len(tensors_in(examples)):
            return
        try:
            graph = _Tracer(model, examples, forward).trace(model)
            self._traced = fx.GraphModule(model, graph)
            self._writes = memory_writes(self._traced, examples)
        except Exception:
            # Tracing runs the user's forward on proxies, so it can raise anything.
            return
        if any(write.readers_after for write in self._writes):
            return  # the graph does not show that these nodes read what was written
        self._graph = graph
        self._folded = with_folded_batch_norm(self._traced) if fold else None

    def before_all(self, cuts: Sequence[GraphCut]) -> fx.GraphModule | None:
        """A graph module that computes what crosses each of several cuts of this model.

        Maps the tensors of an input batch to a tuple with the result of each ``before``. None where
        the results differ for the examples, because an operation writes to a tensor that it reads.
        """
        crossing = {node for cut in cuts for node in cut.crossing}
        graph = fx.Graph()
        known: dict[fx.Node, fx.Node] = {}
        kept: dict[fx.Node, fx.Node] = {}
        traced = self._traced if self._folded is None else self._folded
        for node in traced.graph.nodes:
            if node.op != "output":
                known[node] = graph.node_copy(node, known.__getitem__)
            if node in crossing:  # operations behind an earlier cut may write to the tensor
                kept[node] = graph.call_method("clone", (known[node],))
        graph.output(tuple(tuple(kept[node] for node in cut.crossing) for cut in cuts))
        whole = _without_dead_code(traced, graph)
        inputs = tensors_in(self._examples)
        with torch.no_grad():
            found = whole(*(tensor.clone() for tensor in inputs))
            for cut, tensors in zip(cuts, found, strict=True):
                expected = cut.before(*(tensor.clone() for tensor in inputs))
                if not all(map(torch.equal, tensors, expected)):
                    return None
        return whole

    def cut_at(self, module: nn.Module) -> GraphCut | None:
        """The model cut at ``module``, or None where torch.fx does not reproduce the model.

        The two parts must reproduce the model's outputs for all examples, and for the first one
        alone if the model takes one: bit by bit, or up to rounding with folded batch norms.

        Args:
            module: a submodule that runs exactly once in a forward pass.
        """
        if self._graph is None:
            return None
        cut = self._checked(self._traced, module, self._writes)
        if cut is None or self._folded is None:
            return cut
        return self._checked(self._folded, module, (), is_folded=True)

    def _checked(
        self,
        traced: fx.GraphModule,
        module: nn.Module,
        writes: Sequence[MemoryWrite],
        is_folded: bool = False,
    ) -> GraphCut | None:
        cut = _cut(traced, traced.graph, module, writes)
        if cut is None:
            return None
        reproduced = all(self._reproduces(cut, batch, is_folded) for batch in self._batches)
        return cut if reproduced else None

    @cached_property
    def _batches(self) -> list[Batch]:
        """The examples, and the first one alone if the model takes a single sample."""
        first = take(self._examples, slice(0, 1))
        if samples_in(self._examples) < 2:
            return [first]
        try:
            with torch.no_grad():
                self._forward(self._model, cloned(first))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return [self._examples]
        return [self._examples, first]

    def _reproduces(self, cut: GraphCut, batch: Batch, is_folded: bool) -> bool:
        samples = samples_in(batch)
        with torch.no_grad():
            expected = self._forward.logits(self._model, cloned(batch))
            crossing = cut.before(*tensors_in(cloned(batch)))
            if not all(isinstance(t, Tensor) and t.shape[:1] == (samples,) for t in crossing):
                return False
            try:
                found = logits_of(cut.after(*(tensor.clone() for tensor in crossing)))
            except RuntimeError:  # the traced graph may fit other input shapes only
                return False
        if not is_folded or expected.shape != found.shape:
            return torch.equal(expected, found)
        rounding = math.sqrt(torch.finfo(expected.dtype).eps) * expected.abs().max()
        return bool((expected - found).abs().max() <= rounding)


class _Tracer(LiveTracer):
    """Traces into every module that contains a clip; the clips themselves stay calls.

    The placeholders are the tensors of the batch.
    """

    def __init__(self, model: nn.Module, examples: Batch, forward: Forward) -> None:
        super().__init__(StoredMemory(model))
        self._examples, self._forward = examples, forward

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        leaves, structure = pytree.tree_flatten(self._examples)
        inputs = [
            self.create_proxy("placeholder", f"input_{number}", (), {})
            if isinstance(leaf, Tensor)
            else leaf
            for number, leaf in enumerate(leaves)
        ]
        batch = pytree.tree_unflatten(inputs, structure)

        def run(root: nn.Module) -> Any:
            if self._forward.call is not None:
                output = self._forward.call(root, batch)
            elif isinstance(batch, Mapping):
                output = root_fn(root, **batch)
            else:
                output = root_fn(root, *(batch if isinstance(batch, tuple) else (batch,)))
            return _part_that_counts(self._forward.selected(output))

        return run, [self.root]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m is self.root:
            return False
        if isinstance(m, HyReLU):
            return True
        if any(isinstance(inner, HyReLU) for inner in m.modules()):
            return False
        return super().is_leaf_module(m, module_qualified_name)


def _part_that_counts(output: Any) -> Any:
    """The proxy of the logits if the traced forward packs it into an object."""
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
    else:
        found = None if isinstance(output, fx.Proxy) else getattr(output, "logits", None)
    return output if found is None else found


def _cut(
    model: nn.Module, graph: fx.Graph, module: nn.Module, writes: Sequence[MemoryWrite]
) -> GraphCut | None:
    calls = [
        node
        for node in graph.nodes
        if node.op == "call_module" and model.get_submodule(str(node.target)) is module
    ]
    if len(calls) != 1:
        return None
    behind: dict[fx.Node, None] = {calls[0]: None}
    for node in graph.nodes:
        if any(read in behind for read in node.all_input_nodes):
            behind[node] = None
    again = _recomputed(graph, behind)
    late = {*behind, *again}  # these would read what is written before the cut and after them
    if any(w.node not in behind and not late.isdisjoint(w.readers_before) for w in writes):
        return None
    crossing = {
        read: None
        for node in (*behind, *again)
        for read in node.all_input_nodes
        if read not in behind and read not in again
    }
    before, after = fx.Graph(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in behind and node.op != "output":
            known[node] = before.node_copy(node, known.__getitem__)
    before.output(tuple(known[node] for node in crossing))
    known = {node: after.placeholder(node.name) for node in crossing}
    for node in graph.nodes:
        if node in behind or node in again:
            known[node] = after.node_copy(node, known.__getitem__)
    if not any(node.op == "output" for node in after.nodes):
        return None  # the output does not depend on the module
    return GraphCut(
        _without_dead_code(model, before), fx.GraphModule(model, after), tuple(crossing)
    )


def _without_dead_code(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(model, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _recomputed(graph: fx.Graph, behind: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes before the cut that are read behind it and computed again there.

    Sizes are numbers and cannot be stored sample by sample. The tensors that they are read from
    cross the cut instead. What is computed from stored tensors alone, such as the scale of a
    normalisation, has no samples.
    """
    of_inputs: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not of_inputs.isdisjoint(node.all_input_nodes):
            of_inputs.add(node)
    again: set[fx.Node] = set()
    pending = [read for node in behind for read in node.all_input_nodes]
    while pending:
        node = pending.pop()
        if node in again or node in behind:
            continue
        if _is_size(node) or node not in of_inputs:
            again.add(node)
            pending.extend(node.all_input_nodes)
    return again


def _is_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel")
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    is_arithmetic = getattr(node.target, "__module__", "") in ("_operator", "math")
    return is_arithmetic and bool(node.all_input_nodes) and all(map(_is_size, node.all_input_nodes))
