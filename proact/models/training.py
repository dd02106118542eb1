"""A plain training recipe, seeded, and its cached result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from proact.data import Data, Split
from proact.errors import ProactError
from proact.models.registry import create

_RECIPE = {"epochs": 40, "batch": 64, "peak": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def logits(model: nn.Module, images: Tensor, batch: int = 512) -> Tensor:
    """The outputs for all ``images``, in the mode in which the module stands, without autograd."""
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(batch)])


def accuracy(model: nn.Module, split: Split) -> float:
    """Top-1 accuracy in [0, 1]."""
    return float((logits(model, split.images).argmax(1) == split.labels).float().mean())


def train(
    model: nn.Module,
    data: Data,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Trains ``model`` in place on ``data.train`` and returns it in eval mode.

    SGD with Nesterov momentum, a one-cycle learning rate (L. N. Smith and N. Topin, arXiv
    1708.07120), cross-entropy, no augmentation. Validation and test images are not looked at.

    Args:
        seed: decides the order of the images; torch's global generator is not touched.
        progress: called after each epoch with (epochs done, epochs in all).
    """
    epochs, batch = int(_RECIPE["epochs"]), int(_RECIPE["batch"])
    steps = -(-len(data.train) // batch)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=_RECIPE["peak"],
        momentum=_RECIPE["momentum"],
        weight_decay=_RECIPE["weight_decay"],
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RECIPE["peak"], total_steps=epochs * steps
    )
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for epoch in range(epochs):
        for indices in torch.randperm(len(data.train), generator=generator).split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data.train.images[indices]), data.train.labels[indices])
            loss.backward()
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress(epoch + 1, epochs)
    optimizer.zero_grad()
    return model.eval()


def trained(
    name: str,
    data: Data,
    seed: int = 0,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """The named network trained on ``data``, in eval mode; read from ``cache`` where it is there.

    Args:
        seed: decides the initial weights and the order of the images.
        cache: a folder for safetensors files, named by what determines the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create(name, data.num_classes, data.train.images.shape[1])
    if cache is None:
        return train(model, data, seed, progress)
    path = cache / f"{name}-{data.name}-{_identity(name, data, seed)}.safetensors"
    if path.exists():
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ProactError(
                f"{path} is not the trained {name} that it should be ({error}): delete it"
            ) from None
        return model.eval()
    train(model, data, seed, progress)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Under another name first: a killed run leaves no half-written network behind.
        unfinished = path.with_suffix(".part")
        save_file(model.state_dict(), unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise ProactError(f"the trained network cannot be kept in {cache}: {error}") from None
    return model


def _identity(name: str, data: Data, seed: int) -> str:
    facts = {"model": name, "data": data.train.digest, "seed": seed, "recipe": _RECIPE}
    # The last digits of a sum depend on the number of threads.
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    text = json.dumps([facts, machine], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
