"""The order of weights in memory that is fastest on CPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from proact.nn.batches import Batch
from proact.nn.forward import Forward
from proact.nn.site import eval_mode
from proact.nn.written_state import restored


def prefer_channels_last(models: Sequence[nn.Module], image: Batch, forward: Forward) -> None:
    """Puts convolution weights into the channels-last order, which is faster on CPUs.

    Activations follow the weights. Nothing changes if one of the models runs only on activations
    in the usual order. The models run in eval mode and keep their modes, values and state.
    """
    weights = [
        tensor
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dim() == 4
    ]
    if not isinstance(image, Tensor) or image.dim() != 4 or not weights:
        return
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        for model in models:
            with eval_mode(model), restored(model), torch.no_grad():
                forward(model, image.contiguous(memory_format=torch.channels_last))
                forward(model, image.clone())
    except RuntimeError:
        for weight in weights:
            weight.data = weight.data.contiguous()
