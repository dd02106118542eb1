"""Stops optimizers from updating faulted parameters."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from proact.errors import ProactError
from proact.faults.injection_plan import InjectionPlan


def forbid_training(plan: InjectionPlan) -> RemovableHandle:
    """Makes every optimizer that holds parameters of the plan raise in ``step``, until the returned
    handle is removed."""

    def refuse(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = plan.names.get(parameter.data_ptr())
                if name is not None:
                    raise ProactError(
                        f"an optimizer was about to update {name}, which has faults injected: "
                        "step after the block, or pass allow_training=True"
                    )

    return register_optimizer_step_pre_hook(refuse)
