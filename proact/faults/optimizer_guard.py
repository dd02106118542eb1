"""Optimisers keep off parameters under injection."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from proact.errors import ProactError
from proact.faults.injection_plan import InjectionPlan


def forbid_training(plan: InjectionPlan) -> RemovableHandle:
    """From now on, and until the handle is removed, optimisers refuse to step on the network's
    parameters."""

    def refuse(optimiser: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                name = plan.names.get(parameter.data_ptr())
                if name is not None:
                    raise ProactError(
                        f"an optimiser was about to train {name}, whose network is under "
                        "injection: step after the block, or pass allow_training=True"
                    )

    return register_optimizer_step_pre_hook(refuse)
