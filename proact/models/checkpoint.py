"""Save and load tensors in safetensors files that state a digest of their content.

The state of an unfinished training (weights, momentum, schedule) is one such file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from proact.data.split import content
from proact.errors import ProactError
from proact.files import open_regular, refuse_special
from proact.plain_values import parse_json
from proact.text import short_repr, shortened

_HEADER = "proact.training"
_WEIGHTS, _MOMENTUM = "weights/", "momentum/"
DIGEST = "proact.digest"
#: The most bytes of a file beside those of its tensors.
_MOST_HEADER = 16 << 20


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


#: The entries of a schedule that change from step to step.
_MOVING = {"last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial"}


def load(path: Path, identity: str, model: nn.Module, optimizer: SGD, schedule: OneCycleLR) -> int:
    """Restore the state, and return the number of finished epochs.

    Raises:
        ProactError: not a checkpoint, a damaged one, or one of another training; nothing is
            changed.
    """
    own = model.state_dict()
    # Each weight has one momentum at most.
    header, tensors = read(path, _HEADER, "checkpoint of a training", 2 * _bytes_of(own))
    if header.get("identity") != identity:
        raise ProactError(
            f"{path} is the checkpoint of another training (model, data, recipe or seed differ): "
            "delete it, or name another file"
        )
    weights, momentum = _part(tensors, _WEIGHTS), _part(tensors, _MOMENTUM)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    buffers = {str(index): parameter for index, parameter in enumerate(trained)}
    refuse_other_tensors(path, weights, own)
    refuse_other_tensors(path, momentum, {name: buffers.get(name) for name in momentum})
    fresh = {
        "identity": identity,
        "epoch": 1,
        "groups": optimizer.state_dict()["param_groups"],
        "schedule": schedule.state_dict(),
    }
    plain = json.loads(json.dumps(fresh))
    if not _has_form(header, plain) or header["epoch"] < 1:
        raise _damaged(path, "its header has other entries than those of a checkpoint")
    steps, length = header["schedule"], plain["schedule"]["total_steps"]
    is_same = all(steps[key] == plain["schedule"][key] for key in steps.keys() - _MOVING)
    if not is_same or not 0 <= steps["last_epoch"] < length:
        raise _damaged(path, "its schedule is not that of the training")
    model.load_state_dict(weights)
    state = {int(index): {"momentum_buffer": buffer} for index, buffer in momentum.items()}
    optimizer.load_state_dict({"state": state, "param_groups": header["groups"]})
    schedule.load_state_dict(header["schedule"])
    return int(header["epoch"])


def read(
    path: Path, key: str, described: str, most: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the JSON header under ``key`` and the tensors of a file that `write` wrote.

    Args:
        path: the file.
        key: of the header in the metadata.
        described: names the content in an error.
        most: the most bytes of all tensors.

    Raises:
        ProactError: the file does not exist, is no regular file, has no such header, is too large,
            or is damaged: its content does not have the digest that it states.
    """
    metadata, tensors = _read(path, described, most, key)
    try:
        header = parse_json(metadata[key])
    except ValueError as error:
        raise _damaged(path, f"its header is not valid ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no mapping")
    return header, tensors


def read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read tensors for ``model.load_state_dict``, which `write` wrote.

    Raises:
        ProactError: the errors of `read`, or tensors that do not fit the model.
    """
    own = model.state_dict()
    _, tensors = _read(path, "trained network", _bytes_of(own))
    refuse_other_tensors(path, tensors, own)
    return tensors


def refuse_other_tensors(
    path: Path, given: Mapping[str, Tensor], expected: Mapping[str, Tensor | None]
) -> None:
    """Raise ProactError unless the tensors have the expected names, shapes and dtypes.

    Args:
        path: the file, for messages.
        given: tensors of the file.
        expected: tensors of the model; None for a tensor that it does not have.
    """
    for name in expected.keys() - given.keys():
        raise _damaged(path, f"it lacks {short_repr(name)}")
    for name, tensor in given.items():
        own = expected.get(name)
        if own is None:
            raise _damaged(path, f"it holds {short_repr(name)}, which the model does not have")
        if tensor.shape != own.shape or tensor.dtype != own.dtype:
            raise _damaged(
                path,
                f"{short_repr(name)} has the shape {tuple(tensor.shape)} and {tensor.dtype}, "
                f"expected {tuple(own.shape)} and {own.dtype}",
            )


def _read(
    path: Path, described: str, most: int, key: str | None = None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    open_regular(path, f"a {described}", most + _MOST_HEADER).close()
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if key is not None and key not in metadata:
                raise ValueError(f"it has no entry {key!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises many kinds for files that are damaged
        reason = shortened(" ".join(str(error).split()), 200)
        raise ProactError(
            f"{path} is no {described} ({reason}): delete it, or name another file"
        ) from None
    stated = metadata.pop(DIGEST, None)
    if stated is None:
        raise ProactError(
            f"{path} has no digest of its content, because an older version of proact wrote it: "
            "delete it, or name another file"
        )
    if stated != content_digest(metadata, tensors):
        raise _damaged(path, "its content does not have the digest that it states")
    return metadata, tensors


def content_digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The hexadecimal SHA-256 digest of the metadata and of all tensors.

    It detects damage, and files that another program has changed. It is no signature.
    """
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        layout = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(json.dumps(layout).encode())
        digest.update(content(tensor))
    return digest.hexdigest()


def _damaged(path: Path, reason: str) -> ProactError:
    return ProactError(f"{path} is damaged: {reason}: delete it, or name another file")


def _bytes_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _has_form(given: Any, own: Any) -> bool:
    """Whether a JSON value has the keys, lengths and types of another; numbers must be finite."""
    if isinstance(own, dict):
        return (
            isinstance(given, dict)
            and given.keys() == own.keys()
            and all(_has_form(given[key], value) for key, value in own.items())
        )
    if isinstance(own, list):
        return (
            isinstance(given, list) and len(given) == len(own) and all(map(_has_form, given, own))
        )
    if type(own) in (int, float):
        is_number = type(given) is int if type(own) is int else type(given) in (int, float)
        return is_number and math.isfinite(given)
    return type(given) is type(own) and given == own


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with a digest of its content.

    The file is written atomically: a killed process leaves no partial file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        refuse_special(unfinished, "a file to be written")
        # Copies: safetensors refuses tensors that share memory, as tied weights do.
        copies = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        metadata = metadata or {}
        save_file(copies, unfinished, {**metadata, DIGEST: content_digest(metadata, copies)})
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise ProactError(f"{path} cannot be written: {error}") from None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
