"""Seeded, resumable training by a recipe, and a cache of trained models."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from proact.data import Augmentation, Data, Split
from proact.data.dataset import checked_data
from proact.data.split import content
from proact.errors import ProactError
from proact.models import checkpoint
from proact.models.evaluation import check_takes
from proact.models.recipe import Recipe, augmented, checked_recipe, recipe_for
from proact.models.registry import create
from proact.models.torch_settings import TorchSettings
from proact.nn.forward import logits_of
from proact.nn.model_kinds import checked_module


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    resume: str | Path | None = None,
) -> nn.Module:
    """Train ``model`` in place on ``data.train`` and return it in eval mode.

    Validation and test images are not used. Images and weights are channels-last in memory during
    the training, which is faster for convolutions on CPUs.

    Args:
        model: any classifier; parameters that do not require grad keep their values.
        data: images (n, ...) with class labels.
        recipe: `recipe_for` the data and the model by default.
        seed: an integer; determines the order and augmentation of the images, and what dropout
            draws. The draws of an epoch depend on (seed, epoch) alone. The state of torch's global
            generator is the same afterwards.
        progress: called after each step with (steps done, steps in all).
        resume: a safetensors file for the state after each epoch. If it exists, the training
            continues from there and ends in the same weights, to the bit on one machine with one
            number of threads. It is deleted at the end. None keeps no state.

    Raises:
        ValueError: the model does not take the images, or has fewer classes than they have.
        TypeError: an argument of another type.
        ProactError: ``resume`` holds something else, or cannot be written.
    """
    resume = None if resume is None else Path(resume)
    recipe = recipe_for(data, model) if recipe is None else checked_recipe(recipe)
    check_takes(checked_module(model), checked_data(data).train)
    batch = min(recipe.batch, len(data.train))
    steps = len(data.train) // batch
    how = data.augmentation if recipe.augment else Augmentation()
    trained_ones = [p for p in model.parameters() if p.requires_grad]
    if data.train.images.dim() == 4:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        trained_ones,
        lr=recipe.peak,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    schedule = OneCycleLR(
        optimizer, recipe.peak, total_steps=recipe.epochs * steps, cycle_momentum=False
    )
    identity = _digest(_facts(model, data, recipe, seed))

    def report(steps_done: int) -> None:
        if progress is not None:
            progress(steps_done, recipe.epochs * steps)

    try:
        first = 0
        if resume is not None and resume.exists():
            first = checkpoint.load(resume, identity, model, optimizer, schedule)
        with torch.random.fork_rng(devices=[]):
            for epoch in range(first, recipe.epochs):
                for step in _epoch(
                    model, data.train, how, batch, optimizer, _epoch_seed(seed, epoch)
                ):
                    schedule.step()
                    report(epoch * steps + step)
                if resume is not None and epoch + 1 < recipe.epochs:
                    checkpoint.save(resume, epoch + 1, identity, model, optimizer, schedule)
    finally:
        optimizer.zero_grad()
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if resume is not None:
        resume.unlink(missing_ok=True)
    return model.eval()


def _epoch(
    model: nn.Module,
    train: Split,
    how: Augmentation,
    batch: int,
    optimizer: torch.optim.Optimizer,
    seed: int,
) -> Iterator[int]:
    """Run one epoch; yield the number of each finished step, from 1."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    model.train()
    torch.manual_seed(seed)  # dropout draws from the global generator
    for step, indices in enumerate(order[: len(order) // batch * batch].split(batch), 1):
        images = augmented(train.images, indices, how, generator)
        optimizer.zero_grad()
        F.cross_entropy(logits_of(model(images)), train.labels[indices]).backward()
        optimizer.step()
        yield step


def trained(
    name: str,
    data: Data,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    recipe: Recipe | None = None,
) -> nn.Module:
    """Return the named model trained on ``data``, in eval mode, from ``cache`` if it is there.

    Args:
        name: one of `proact.models.names`.
        data: gives the number of classes and of input channels, and the training images.
        seed: determines the initial weights, and the random numbers of `train`.
        cache: a folder for safetensors files, named by what determines the weights. An
            interrupted training continues after its last epoch. None trains in each call.
        progress, recipe: as for `train`.

    Raises:
        ValueError: an unknown name, or as `train`.
        TypeError: as `train`.
        ProactError: a file in ``cache`` is damaged or cannot be written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create(name, checked_data(data).num_classes, data.train.images.shape[1])
    recipe = recipe_for(data, model) if recipe is None else checked_recipe(recipe)
    if cache is None:
        return train(model, data, recipe, seed, progress)
    # The last digits of a sum depend on the number of threads.
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    initial = hashlib.sha256()
    for tensor in model.state_dict().values():
        initial.update(content(tensor))
    facts = {"model": name, "initial": initial.hexdigest(), **machine}
    identity = _digest({**facts, **_facts(model, data, recipe, seed)})
    file = re.sub(r"[^\w.-]+", "_", f"{name}-{data.name}-{identity[:12]}")
    path = Path(cache) / f"{file}.safetensors"
    if path.exists():
        try:
            model.load_state_dict(checkpoint.read_weights(path, model))
        except ProactError as error:
            raise ProactError(
                f"{path} does not hold the expected trained {name} ({error}): delete it"
            ) from None
        return model.eval()
    train(model, data, recipe, seed, progress, path.with_suffix(".unfinished.safetensors"))
    checkpoint.write(path, model.state_dict())
    return model


def _facts(model: nn.Module, data: Data, recipe: Recipe, seed: int) -> dict[str, object]:
    """Return the facts that determine the trained weights, besides the initial weights."""
    return {
        "network": repr(model),
        "trained": [name for name, p in model.named_parameters() if p.requires_grad],
        "tensors": {name: list(t.shape) for name, t in model.state_dict().items()},
        "data": data.train.digest,
        "augmentation": asdict(data.augmentation),
        "recipe": asdict(recipe),
        "seed": seed,
        **TorchSettings.current().facts(data.train.device),
    }


def _digest(facts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _epoch_seed(seed: int, epoch: int) -> int:
    """Derive a seed in [0, 2^63) from (seed, epoch)."""
    digest = hashlib.sha256(f"proact training {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
