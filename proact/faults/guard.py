"""Optimisers keep off parameters under injection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from proact.errors import ProactError
from proact.faults.prepared import Prepared


@contextmanager
def no_training(prepared: Prepared) -> Iterator[None]:
    """Optimisers refuse to step on the network's parameters."""
    names = prepared.names

    def refuse(optimiser: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if parameter.data_ptr() in names:
                    raise ProactError(
                        f"an optimiser was about to train {names[parameter.data_ptr()]}, which is "
                        "under injection: step after the block, or pass allow_training=True"
                    )

    handle = register_optimizer_step_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
