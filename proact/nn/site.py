"""`Site`, an activation call in a model, and the modes in which a model runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from proact.nn.activations import RELU, Activation
from proact.nn.hyrelu import HyReLU


@dataclass(frozen=True)
class Site:
    """One activation call of a model.

    Attributes:
        name: the qualified name of the module that serves this call, and no other, in the model
            that `replace_sites` returns. A module that is called once keeps its name. Calls of a
            function, or of a module that is called more often, are numbered (``relu_1``).
        shape: the shape of one sample at the site.
        activation: the function that is called.
        places: all qualified names under which the replacement is registered.
        caller: the qualified name of the module whose forward is rewritten for this site; None if
            it is enough to replace a module.
        call: the index of this call among the caller's activation calls, from 0.
        arguments: describes the watched call of the caller (`proact.nn.call_binding`).
        dtype: of the activations.
        function: a copy of the model's own module or function, where the activation is not torch's.
    """

    name: str
    shape: tuple[int, ...]
    activation: Activation = RELU
    places: tuple[str, ...] = field(default=(), repr=False)
    caller: str | None = field(default=None, repr=False)
    call: int = field(default=0, repr=False)
    arguments: str = field(default="{}", repr=False)
    dtype: torch.dtype = field(default=torch.float32, repr=False, compare=False)
    function: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def neurons(self) -> int:
        """The number of activations of one sample at the site."""
        return torch.Size(self.shape).numel()

    @property
    def ceiling(self) -> float:
        """The largest value of the activation: 6 for ReLU6, inf for ReLU."""
        return self.activation.ceiling

    def clip(self, threshold: Tensor | float, mode: str = "zero", slope: float = 20.0) -> HyReLU:
        """A clip that can replace this activation; the arguments are those of `HyReLU`."""
        return self.activation.clip(threshold, mode, slope, self.function)

    def original(self) -> nn.Module:
        """A module that computes the activation; one of torch does not write to its input."""
        return self.activation.module() if self.function is None else self.function


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Runs the block with ``model`` in eval mode, then restores the mode of each module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Switches torch's fused kernels for transformer layers off inside the block.

    They compute an encoder layer in eval mode without calling its activation, and leave out padded
    tokens. Blocks may overlap, in several threads too: the last one that ends puts the switch back.
    """
    disable_fast_path()
    try:
        yield
    finally:
        release_fast_path()


class _FastPath:
    """Counts the blocks without fused kernels, because the switch is one for the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._was_enabled = True

    def disable(self) -> None:
        with self._lock:
            if self._blocks == 0:
                self._was_enabled = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._blocks += 1

    def release(self) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                torch.backends.mha.set_fastpath_enabled(self._was_enabled)


_FAST_PATH = _FastPath()


def disable_fast_path() -> None:
    """Begins a block without fused kernels; each call needs a call of `release_fast_path`."""
    _FAST_PATH.disable()


def release_fast_path() -> None:
    """Ends a block without fused kernels; the last block puts the switch back."""
    _FAST_PATH.release()


def has_fast_path(model: nn.Module) -> bool:
    """Whether a model holds modules that torch computes by fused kernels in eval mode."""
    kinds = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
    return any(isinstance(module, kinds) for module in model.modules())
