"""Find stored numbers that are neither parameters nor buffers, such as packed int8 weights."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from proact.nn.inner_tensors import scales_beside
from proact.nn.int8_layers import int8_parameters, lack_of_words
from proact.nn.tensor_inventory import StoredTensor, types_of


class PackedWeights(NamedTuple):
    """Weights that faults cannot hit.

    Attributes:
        weights: the weights, described so that selectors apply to them; the tensor is empty.
        lack: why they cannot be hit, with the remedy, as the rest of a sentence that names them.
    """

    weights: StoredTensor
    lack: str


_PACKED = (
    "keeps weights in a packed form, which faults cannot hit: quantise with torchao or with "
    "encoding='int8' instead"
)

_SHARED = (
    "shares an 8-bit parameter with another layer, and the first of them to run takes its scales: "
    "give each layer a parameter of its own"
)


def packed_weights(model: nn.Module) -> list[PackedWeights]:
    """The modules whose ``state_dict()`` holds numbers that no parameter or buffer stores: weights
    that torch.ao has packed, and extra state with tensors. Also the weights and scales of 8-bit
    layers of bitsandbytes that compute with other memory than their parameter."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    uses = Counter(id(each) for module in modules.values() for _, each in int8_parameters(module))
    packed = []
    for name, module in modules.items():
        for leaf, parameter in int8_parameters(module):
            lack = _SHARED if uses[id(parameter)] > 1 else lack_of_words(module, parameter)
            if lack is not None:
                weight, types = f"{name}.{leaf}" if name else leaf, types_of(module)
                packed.append(_packed(weight, name, types, "weight", lack))
                packed.append(_packed(f"{weight}.SCB", name, types, "scale", lack))
        if _is_packing(module):
            # torch.ao keeps the packed weights of a layer in a child of it.
            layer = name.removesuffix("._packed_params").removesuffix("_packed_params")
            types = types_of(modules.get(layer, module))
            packed.append(_packed(name, layer, types, "weight", _PACKED))
    return packed


def _packed(name: str, layer: str, types: tuple[str, ...], kind: str, lack: str) -> PackedWeights:
    return PackedWeights(
        StoredTensor(name, (name,), torch.empty(0), layer, types, kind, False), lack
    )


def _is_packing(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return bool(module._c.hasattr("_packed_params")) or module.original_name == (
            "PackedParameter"
        )
    if any(int8_parameters(module)):
        return False
    if any(scales_beside(p, module) for p in module._parameters.values() if p is not None):
        return False  # what the module adds describes numbers that are stored otherwise
    return _overrides_state(module) and any(map(_is_packed, _own_state(module)))


def _overrides_state(module: nn.Module) -> bool:
    kind = type(module)
    return (
        kind._save_to_state_dict is not nn.Module._save_to_state_dict
        or kind.get_extra_state is not nn.Module.get_extra_state
    )


def _own_state(module: nn.Module) -> Iterator[Any]:
    """The entries of ``state_dict()`` that the module itself adds beside parameters and buffers."""
    entries: dict[str, Any] = {}
    module._save_to_state_dict(entries, "", True)
    known = {*module._parameters, *module._buffers}
    for name, value in entries.items():
        if name not in known:
            yield from pytree.tree_leaves(value)


def _is_packed(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_quantized or value.is_floating_point() or value.numel() > 1
    return isinstance(value, (torch.ScriptObject, bytes, bytearray, io.BytesIO))
