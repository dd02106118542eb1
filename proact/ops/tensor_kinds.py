"""Kinds of tensors that have no address, or whose address holds other words than their numbers."""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.parameter import is_lazy

#: Wrapper subclasses whose numbers no operator here can take, by module and name, with the remedy.
#: Their modules are loaded by those who use them.
_WRAPPERS = {
    ("torch.distributed.tensor", "DTensor"): (
        "a DTensor, which holds the part of one process: pass to_local()"
    ),
    ("torch.masked.maskedtensor.core", "MaskedTensor"): "a MaskedTensor: pass get_data()",
}


def unusual_kind(tensor: Tensor) -> str | None:
    """What a tensor is, with the remedy, that has no address of its own by its kind; None for
    others.

    Wrapper subclasses that are not known by name are left to the check of their address.
    """
    kind = None
    if is_lazy(tensor):
        kind = "a parameter without a shape: run the model on one batch first"
    elif torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        kind = "a tensor inside a torch.func transform: call this outside of the transform"
    elif isinstance(tensor, FakeTensor):
        kind = "a fake tensor: pass one with memory"
    elif tensor.is_nested:
        kind = f"a nested tensor of layout {tensor.layout} on {tensor.device}: pass its components"
    elif tensor.is_meta:
        kind = "a tensor on meta, which has a shape only: load it onto a device first"
    elif tensor.layout != torch.strided:
        kind = f"a tensor of layout {tensor.layout} on {tensor.device}: pass to_dense()"
    elif tensor.is_quantized:
        kind = (
            "a quantised tensor of torch: pass dequantize(), or quantise a model with torchao or "
            "encoding='int8'"
        )
    elif tensor.is_neg() or tensor.is_conj():
        kind = "a lazily negated or conjugated view: call resolve_neg() or resolve_conj()"
    elif tensor._is_zerotensor():
        kind = "a tensor of zeros that have no memory: pass a clone() of it"
    elif is_functional(tensor):
        kind = "a tensor of torch's functionalisation: call this outside of it"
    elif type(tensor) is not Tensor:
        kind = _wrapper(tensor)
    return kind


def is_functional(tensor: Tensor) -> bool:
    return isinstance(tensor, FunctionalTensor) or torch._is_functional_tensor(tensor)


def is_wrapper(tensor: Tensor) -> bool:
    """Whether the class of a tensor implements torch's operators itself."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def is_dispatched(tensor: Tensor, is_written: bool) -> bool:
    """Whether torch's dispatcher gives an operator's kernel plain tensors in place of one without
    plain memory, or asks for shapes only.

    Args:
        tensor: any tensor.
        is_written: whether the operator writes to it.
    """
    if is_lazy(tensor) or tensor.is_nested or _wrapper(tensor) is not None:
        return False
    if isinstance(tensor, FunctionalTensor):
        key = torch._C._TorchDispatchModeKey.FUNCTIONAL
        return torch._C._get_dispatch_mode(key) is not None
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or is_wrapper(tensor):
        return True
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj():
        return False
    if tensor.is_meta:
        return True
    is_lazy_value = tensor.is_neg() or tensor._is_zerotensor() or is_functional(tensor)
    return is_lazy_value and not is_written


def takes_real_tensors(fake: FakeTensor) -> bool:
    """Whether an operator may take other tensors beside a fake one."""
    return bool(fake.fake_mode.allow_non_fake_inputs)


def _wrapper(tensor: Tensor) -> str | None:
    for (module, name), kind in _WRAPPERS.items():
        found = getattr(sys.modules.get(module), name, None)
        if found is not None and isinstance(tensor, found):
            return kind
    return None
