"""What a site is, and the mode in which networks are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from proact.nn.activations import RELU, Activation
from proact.nn.hyrelu import HyReLU


@dataclass(frozen=True)
class Site:
    """One activation call.

    Attributes:
        name: the qualified name of the module that serves this call alone in what `replace_sites`
            returns. A module that is called once keeps its name; the calls of one that is called
            more often in a forward are numbered (``relu_1``, ``relu_2``), as those of functions.
        shape: of one sample there.
        activation: which function is called.
        places: all qualified names under which the clip is put.
        caller: the module whose forward is rewritten for this site; None where replacing a module
            is enough.
        call: which of the caller's activation calls it is, from 0.
    """

    name: str
    shape: tuple[int, ...]
    activation: Activation = RELU
    places: tuple[str, ...] = field(default=(), repr=False)
    caller: str | None = field(default=None, repr=False)
    call: int = field(default=0, repr=False)

    @property
    def neurons(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def ceiling(self) -> float:
        """Where the activation stops growing: 6 for ReLU6, inf for ReLU."""
        return self.activation.ceiling

    def clip(self, threshold: Tensor | float, mode: str = "zero", slope: float = 20.0) -> HyReLU:
        """What takes this activation's place; the arguments are `HyReLU`'s."""
        return self.activation.clip(threshold, mode, slope)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; each module's own mode outside, also where they differ."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
