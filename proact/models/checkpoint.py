"""Save and load unfinished trainings: weights, momentum and schedule in safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from proact.errors import ProactError

_HEADER = "proact.training"
_WEIGHTS, _MOMENTUM = "weights/", "momentum/"


def save(
    path: Path,
    epoch: int,
    identity: str,
    model: nn.Module,
    optimizer: SGD,
    schedule: OneCycleLR,
) -> None:
    """Save the state after ``epoch`` epochs; an older file is replaced atomically."""
    tensors = {f"{_WEIGHTS}{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        # The buffer is None without momentum, and missing if no gradient was ever computed.
        if isinstance(buffer := state.get("momentum_buffer"), Tensor):
            tensors[f"{_MOMENTUM}{index}"] = buffer
    header = {
        "identity": identity,
        "epoch": epoch,
        "groups": optimizer.state_dict()["param_groups"],
        "schedule": schedule.state_dict(),
    }
    write(path, tensors, {_HEADER: json.dumps(header)})


def load(path: Path, identity: str, model: nn.Module, optimizer: SGD, schedule: OneCycleLR) -> int:
    """Restore the state, and return the number of finished epochs.

    Raises:
        ProactError: not a checkpoint, or one of another training; nothing is changed.
    """
    header, tensors = read(path, _HEADER, "checkpoint of a training")
    if header["identity"] != identity:
        raise ProactError(
            f"{path} is the checkpoint of another training (model, data, recipe or seed differ): "
            "delete it, or name another file"
        )
    model.load_state_dict(_part(tensors, _WEIGHTS))
    momentum = _part(tensors, _MOMENTUM)
    state = {int(index): {"momentum_buffer": buffer} for index, buffer in momentum.items()}
    optimizer.load_state_dict({"state": state, "param_groups": header["groups"]})
    schedule.load_state_dict(header["schedule"])
    return int(header["epoch"])


def read(path: Path, key: str, described: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the JSON header under ``key`` and the tensors of a safetensors file.

    Raises:
        ProactError: the file does not exist or has no such header.
    """
    if not path.is_file():
        raise ProactError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}, expected a {described}"
        )
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[key])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ProactError(
            f"{path} is no {described} ({error}): delete it, or name another file"
        ) from None


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically: a killed process leaves no partial file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        # Copies: safetensors refuses tensors that share memory, as tied weights do.
        copies = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        save_file(copies, unfinished, metadata)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise ProactError(f"{path} cannot be written: {error}") from None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
