"""Transient faults: bits of activations flip during the forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from proact.encodings import Bits, encoding_named
from proact.faults.fault import Fault, checked_bits
from proact.faults.selectors import Selector, checked_where, select
from proact.nn.model_kinds import checked_module, refuse_compiled, refuse_opaque
from proact.nn.tensor_inventory import StoredTensor, types_of
from proact.ops.plan import checked_ber
from proact.text import short_repr

#: Layers that return their input; they store no new activation.
_PASS_THROUGH = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True)
class ActivationFlip(Fault):
    """Each bit of the outputs (or inputs) of layers flips with probability ``ber`` in each forward
    pass.

    Every call of a layer meets a new pattern, a function of (seed, trial, layer, number of the call
    within the block, counted from 0) and of the activation's shape. The same batches therefore meet
    the same faults. Gradients pass as if the activation had not changed.

    Inside the block, torch's fused kernels for transformer layers are off
    (`torch.backends.mha.set_fastpath_enabled`), because they bypass layers. A selected layer that
    computes floats in which no bit can flip (nested, sparse and complex tensors, and tensors in
    objects) makes the forward pass raise a `ProactError`. Integers and booleans are not hit.

    Attributes:
        ber: probability per stored activation bit, in [0, 1], ends included.
        where: selects the layers: a pattern of qualified names, a `Where` of names and layer types,
            or a sequence of these. A layer is a module without children; layers that only return
            their input (Identity, Flatten, Dropout) are left out.
        at: ``"output"`` faults the layer's result (for an in-place layer a copy of it, so that
            other readers of the input see no fault). ``"input"`` faults what this layer reads, for
            this layer only.
        encoding: the name of the stored form of the activations: ``"native"`` (their own dtype),
            ``"float32"``, ``"float16"``, ``"int8"``, ``"q7.8"``, ``"mxfp8_e4m3"``, ... An encoding
            that rounds is applied to all activations of the selected layers, flipped or not. The
            scales of block formats are stored with an activation and exposed; the one scale of
            ``int8`` is a constant of the program and is not. In formats without NaN or infinity,
            integers and all block formats included, infinity becomes the largest number and NaN
            becomes 0, or the NaN of the element if it has one.
        bits: the exposed bits of each word, as for `BitFlip`.
        largest: for ``int8`` and ``nvfp4``, which have a scale for the whole tensor: the largest
            observed magnitude of each layer, by layer name (see `observe_activations`); larger
            values saturate. None uses each tensor's own.

    Raises:
        ValueError, TypeError: an argument out of range or of another type, or an unknown encoding.
    """

    ber: float
    where: Selector = field(default="*", kw_only=True)
    at: str = field(default="output", kw_only=True)
    encoding: str = field(default="native", kw_only=True)
    bits: Bits = field(default=None, kw_only=True)
    largest: Mapping[str, float] | tuple[tuple[str, float], ...] | None = field(
        default=None, kw_only=True
    )

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "ber", checked_ber(self.ber))
        set_field(self, "where", checked_where(self.where))
        set_field(self, "bits", checked_bits(self.bits))
        if self.at not in ("output", "input"):
            raise ValueError(f"at must be 'output' or 'input', got {short_repr(self.at)}")
        if not isinstance(self.encoding, str):
            raise TypeError(
                f"encoding must be the name of an encoding, got {short_repr(self.encoding)}"
            )
        encoding_named(self.encoding)
        if self.largest is not None:
            set_field(self, "largest", _checked_largest(self.largest))

    def expected_ber(self, bits: Sequence[int]) -> float:
        return self.ber


def layers_of(model: nn.Module, fault: ActivationFlip) -> dict[str, nn.Module]:
    """The layers that a fault hits, by qualified name.

    Raises:
        ValueError: it hits none, or a layer that runs inside a compiled graph or TorchScript.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in checked_module(model).named_modules(remove_duplicate=False):
        if _is_layer(name, module):
            names.setdefault(module, []).append(name)
    nothing = torch.empty(0)
    described = [
        StoredTensor(own[0], tuple(own), nothing, own[0], types_of(module), "other", True)
        for module, own in names.items()
    ]
    chosen = [layer.name for layer in select(fault.where, described, "layer")]
    if fault.largest is not None:
        observed = dict(fault.largest)
        for name in chosen:
            if name not in observed:
                raise ValueError(
                    f"largest has no magnitude for the layer {short_repr(name)}, which the fault "
                    "hits"
                )
    refuse_opaque(model, "a fault in activations")
    refuse_compiled(model, "a fault in activations", chosen)
    modules = {own[0]: module for module, own in names.items()}
    return {name: modules[name] for name in chosen}


def _is_layer(name: str, module: nn.Module) -> bool:
    """Whether a module has no children, except for those that compute a parametrized weight."""
    return (
        "parametrizations" not in name.split(".")
        and all(child == "parametrizations" for child, _ in module.named_children())
        and not isinstance(module, _PASS_THROUGH)
    )


def _checked_largest(largest: Any) -> tuple[tuple[str, float], ...]:
    try:
        pairs = tuple((str(name), float(value)) for name, value in sorted(dict(largest).items()))
    except (TypeError, ValueError):
        raise TypeError(
            f"largest must map names of layers to magnitudes, got {short_repr(largest)}"
        ) from None
    for name, value in pairs:
        if not 0.0 <= value < math.inf:
            raise ValueError(
                f"largest must hold finite magnitudes of at least 0, got {value} for "
                f"{short_repr(name)}"
            )
    return pairs
