"""Copy the modules of a model without copying its parameters."""

from __future__ import annotations

import copy

from torch import nn


def copy_sharing_parameters(model: nn.Module) -> nn.Module:
    """A deep copy of ``model`` whose parameters are those of ``model`` itself.

    Modules, hooks, plain attributes and buffers are copied, so that replacing a module in the copy,
    or a forward pass that writes to a buffer, leaves ``model`` as it was.
    """
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
