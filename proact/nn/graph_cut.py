"""A network cut at one module: what leads to it, and what depends on it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from proact.nn.hyrelu import HyReLU
from proact.nn.outputs import logits_of


@dataclass(frozen=True)
class Cut:
    """Two networks that, one after the other, compute what the whole one does.

    They call the very modules of the whole network, so that a change in one shows in the other.

    Attributes:
        before: an input batch in, a tuple of tensors out, the samples first: the module's input,
            and all else that is computed without the module and read behind it (shortcuts).
        after: these tensors in, the network's output out.
    """

    before: fx.GraphModule
    after: fx.GraphModule


def cut_at(network: nn.Module, module: nn.Module, examples: Tensor) -> Cut | None:
    """``network`` cut at its ``module``; None where torch.fx does not follow it faithfully.

    Args:
        network: in eval mode, with weights that nothing draws at random.
        module: runs once in a forward pass.
        examples: two or more inputs, (samples, ...). The two halves have to give the whole
            network's outputs for them, and for one of them, to the bit.
    """
    try:
        graph = _WholeNetwork().trace(network)
    except Exception:
        # Tracing runs the user's forward on stand-ins for tensors: anything may be raised.
        return None
    cut = _cut(network, graph, module)
    if cut is None or not all(_agrees(network, cut, part) for part in (examples, examples[:1])):
        return None
    return cut


class _WholeNetwork(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, HyReLU):
            return True
        if any(isinstance(inner, HyReLU) for inner in m.modules()):
            return False
        return super().is_leaf_module(m, module_qualified_name)


def _cut(network: nn.Module, graph: fx.Graph, module: nn.Module) -> Cut | None:
    calls = [
        node
        for node in graph.nodes
        if node.op == "call_module" and network.get_submodule(str(node.target)) is module
    ]
    if len(calls) != 1:
        return None
    behind: dict[fx.Node, None] = {calls[0]: None}
    for node in graph.nodes:
        if any(read in behind for read in node.all_input_nodes):
            behind[node] = None
    again = _computed_again(behind)
    crossing = {
        read: None
        for node in (*behind, *again)
        for read in node.all_input_nodes
        if read not in behind and read not in again and read.op != "get_attr"
    }
    before, after = fx.Graph(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in behind and node.op != "output":
            known[node] = before.node_copy(node, known.__getitem__)
    before.output(tuple(known[node] for node in crossing))
    known = {node: after.placeholder(node.name) for node in crossing}
    for node in graph.nodes:
        is_read = node.op == "get_attr" and any(user in behind for user in node.users)
        if node in behind or node in again or is_read:
            known[node] = after.node_copy(node, known.__getitem__)
    if not any(node.op == "output" for node in after.nodes):
        return None  # the module decides nothing
    cut = Cut(fx.GraphModule(network, before), fx.GraphModule(network, after))
    cut.before.graph.eliminate_dead_code()
    cut.before.recompile()
    return cut


def _computed_again(behind: Iterable[fx.Node]) -> set[fx.Node]:
    """The sizes that are read behind the cut: numbers, which cannot be kept sample by sample, so
    that what they are sizes of crosses in their place."""
    again: set[fx.Node] = set()
    pending = [read for node in behind for read in node.all_input_nodes]
    while pending:
        node = pending.pop()
        if node not in again and _is_size(node):
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


def _agrees(network: nn.Module, cut: Cut, examples: Tensor) -> bool:
    with torch.no_grad():
        expected = logits_of(network(examples.clone()))
        crossing = cut.before(examples.clone())
        if not all(isinstance(t, Tensor) and t.shape[:1] == examples.shape[:1] for t in crossing):
            return False
        try:
            given = logits_of(cut.after(*(tensor.clone() for tensor in crossing)))
        except RuntimeError:  # what was traced fits other inputs than these
            return False
    return torch.equal(expected, given)


def with_folded_batch_norm(network: fx.GraphModule) -> fx.GraphModule:
    """A network that computes the same up to rounding: batch norm behind a convolution goes into
    its weights, as it can in eval mode. All other modules are shared with ``network``."""
    graph = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(network.graph, known))
    folded = fx.GraphModule(network, graph)
    for node in list(graph.nodes):
        pair = _convolution_and_norm(folded, node)
        if pair is not None:
            convolution, norm = pair
            (read,) = node.all_input_nodes
            fused = fuse_conv_bn_eval(copy.deepcopy(convolution), norm).requires_grad_(False)
            # A graph module has containers of its own; only what they hold is shared.
            parent, _, child = str(read.target).rpartition(".")
            setattr(folded.get_submodule(parent), child, fused)
            node.replace_all_uses_with(read)
            graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _convolution_and_norm(network: nn.Module, node: fx.Node) -> tuple[_ConvNd, _BatchNorm] | None:
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return None
    norm = network.get_submodule(str(node.target))
    (read,) = node.all_input_nodes
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return None
    if read.op != "call_module" or len(read.users) != 1:
        return None
    convolution = network.get_submodule(str(read.target))
    calls = [other for other in node.graph.nodes if other.target == read.target]
    plain = type(convolution) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in (convolution, norm))
    if not plain or len(calls) != 1 or hooked:
        return None
    assert isinstance(convolution, _ConvNd)
    return convolution, norm
