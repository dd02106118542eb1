"""Find the nodes of a traced forward that write to memory which other nodes read.

The edges of a torch.fx graph do not show such writes: ``h.clamp_(max=6)`` may stand as a statement
whose result nobody reads, and a view may be read under another name. Nodes may then neither be
left out nor run in another order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from proact.nn.batches import Batch, cloned, tensors_in
from proact.ops.plain_memory import has_plain_memory


class MemoryWrite(NamedTuple):
    """A node that writes to the results of earlier nodes.

    Attributes:
        node: the node. Its own result may be read by any node.
        readers_before, readers_after: the nodes before and after it that read these results, or
            other views of the same memory, under the names of earlier nodes.
    """

    node: fx.Node
    readers_before: frozenset[fx.Node]
    readers_after: frozenset[fx.Node]


def memory_writes(traced: fx.GraphModule, examples: Batch) -> list[MemoryWrite]:
    """All writes of a traced model to memory that its nodes have computed or read.

    Whether a node writes is told by torch's version counters, so it does not matter whether the
    examples hold values that the write changes.

    Args:
        traced: its placeholders are the tensors of a batch.
        examples: a batch.
    """
    # Tensors of inference mode have no version counters.
    with torch.inference_mode(False), torch.no_grad():
        watcher = _Watcher(traced)
        watcher.run(*tensors_in(cloned(examples)))
    place = {node: number for number, node in enumerate(traced.graph.nodes)}
    found = []
    for node, earlier in watcher.writes:
        readers = {user for each in earlier for user in each.users} - {node}
        before = frozenset(reader for reader in readers if place[reader] < place[node])
        found.append(MemoryWrite(node, before, frozenset(readers - before)))
    return found


class _Watcher(fx.Interpreter):
    """Runs a graph and notes the nodes that write, each with the earlier nodes whose results have
    the written memory."""

    def __init__(self, traced: fx.GraphModule) -> None:
        # Kept tensors keep their storages, so that no two of them have one address.
        super().__init__(traced, garbage_collect_values=False)
        self.writes: list[tuple[fx.Node, list[fx.Node]]] = []
        self._nodes: dict[int, list[fx.Node]] = {}  # by storage

    def run_node(self, n: fx.Node) -> Any:
        given = _tensors_of(self.fetch_args_kwargs_from_env(n))
        versions = [tensor._version for tensor in given]
        result = super().run_node(n)
        written = {
            _storage(tensor)
            for tensor, version in zip(given, versions, strict=True)
            if tensor._version != version
        }
        if written:
            self.writes.append((n, [each for s in written for each in self._nodes.get(s, ())]))
        for storage in {_storage(tensor) for tensor in _tensors_of(result)}:
            self._nodes.setdefault(storage, []).append(n)
        return result


def _tensors_of(values: Any) -> list[Tensor]:
    """The tensors in a tree that have a version counter and a storage."""
    return [
        leaf
        for leaf in pytree.tree_leaves(values)
        if isinstance(leaf, Tensor) and has_plain_memory(leaf) and not leaf.is_inference()
    ]


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
