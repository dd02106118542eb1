"""Fold batch norms of a graph module into the convolutions before them."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval


def with_folded_batch_norm(model: fx.GraphModule) -> fx.GraphModule:
    """A graph module that folds each batch norm into the convolution before it.

    It computes what ``model`` computes in eval mode, up to rounding, and shares all other modules
    with it. A batch norm stays where the convolution's output is read elsewhere, or where either
    module has hooks.
    """
    graph = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(model.graph, known))
    folded = fx.GraphModule(model, graph)
    for node in list(graph.nodes):
        pair = _convolution_and_norm(folded, node)
        if pair is not None:
            convolution, norm = pair
            (read,) = node.all_input_nodes
            fused = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
            # The containers of a graph module are its own; only the leaves are shared.
            parent, _, child = str(read.target).rpartition(".")
            setattr(folded.get_submodule(parent), child, fused)
            node.replace_all_uses_with(read)
            graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _convolution_and_norm(model: nn.Module, node: fx.Node) -> tuple[_ConvNd, _BatchNorm] | None:
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return None
    norm = model.get_submodule(str(node.target))
    (read,) = node.all_input_nodes
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return None
    if read.op != "call_module" or len(read.users) != 1:
        return None
    convolution = model.get_submodule(str(read.target))
    calls = [other for other in node.graph.nodes if other.target == read.target]
    plain = type(convolution) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in (convolution, norm))
    if not plain or len(calls) != 1 or hooked:
        return None
    assert isinstance(convolution, _ConvNd)
    return convolution, norm
