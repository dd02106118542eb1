"""The activation sites of a model, and the memory of thresholds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from proact.config.user_code import load_model, load_model_for
from proact.data import Data
from proact.models.evaluation import run_checked
from proact.nn import Site, find_sites
from proact.nn.batches import Batch
from proact.nn.forward import Forward
from proact.protect import threshold_counts
from proact.report.tables import Column, make_table
from proact.text import label, short_repr

_BYTES = 4  # of a float32 threshold


@dataclass(frozen=True)
class ModelProfile:
    """The activation sites of a model and its number of thresholds.

    Attributes:
        model: the name, or the text that names the user's model.
        shape: of an image, (channels, height, width); empty if the inputs are not one tensor.
        sites: the activation sites in execution order.
        thresholds: the number of thresholds by granularity.
        parameters: the number of scalar parameters of the model.
    """

    model: str
    shape: tuple[int, ...]
    sites: tuple[Site, ...]
    thresholds: Mapping[str, int]
    parameters: int

    def document(self) -> dict[str, Any]:
        """Return the profile as values that JSON can hold."""
        return {
            "model": self.model,
            "shape": list(self.shape),
            "parameters": self.parameters,
            "sites": [
                {"site": site.name, "shape": list(site.shape), "neurons": site.neurons}
                for site in self.sites
            ],
            "thresholds": {
                granularity: {"count": count, "bytes": _BYTES * count}
                for granularity, count in self.thresholds.items()
            },
        }


def profile_tables(profile: ModelProfile) -> list[Table]:
    """Make a table of the sites and a table of the memory by granularity."""
    sites = [(site.name, _times(site.shape), f"{site.neurons:,}") for site in profile.sites]
    given = f" on {_times(profile.shape)}" if profile.shape else ""
    title = f"{label(profile.model)}{given}: activation sites in execution order"
    memory = [
        (
            granularity,
            f"{count:,}",
            f"{_BYTES * count:,}",
            f"{100 * count / profile.parameters:.3f}" if profile.parameters else "",
            f"{profile.thresholds['neuron'] / count:.1f}x",
        )
        for granularity, count in profile.thresholds.items()
    ]
    headings = ["thresholds", "bytes", "% of parameters", "fewer than neuron"]
    return [
        make_table([Column("site", is_text=True), "shape", "neurons"], sites, title),
        make_table(
            [Column("granularity", is_text=True), *headings],
            memory,
            f"Thresholds beside {profile.parameters:,} parameters",
        ),
    ]


def profile_of(
    model: str,
    images: Data | None,
    shape: str = "3x32x32",
    classes: int = 10,
    *,
    activations: Sequence[str] = ("relu",),
    skip: Sequence[str] = (),
    forward: Callable[[nn.Module, Batch], Any] | None = None,
) -> ModelProfile:
    """Profile a named model, or a model of the user's.

    Args:
        model: a name, ``file.py:attribute`` or ``module:attribute``.
        images: determine image shape and number of classes; None uses ``shape`` and ``classes``.
        shape: of an image, channels x height x width.
        classes: the number of classes.
        activations, skip, forward: as ``kinds``, ``skip`` and ``forward`` of
            `proact.nn.find_sites`.

    Raises:
        ValueError: an unknown name, an invalid shape, or a model that does not accept the images.
    """
    size: tuple[int, ...] = ()
    # Use noise: on an image of one colour the ReLUs of an untrained model all behave alike.
    noise = torch.Generator().manual_seed(0)
    if images is None:
        size = _shape(shape)
        made = load_model(model, classes, size[0])
        example = torch.randn(2, *size, generator=noise)
    else:
        made = load_model_for(model, images)
        example = next(images.train.first(2).batches(2))[0]
        if isinstance(example, Tensor):
            size = tuple(example.shape[1:])
            if example.is_floating_point():
                example = torch.randn(example.shape, generator=noise)
    run_checked(made, example, forward=Forward(forward))
    sites = find_sites(made, example, activations, forward, skip)
    parameters = sum(parameter.numel() for parameter in made.parameters())
    return ModelProfile(model, size, tuple(sites), threshold_counts(sites), parameters)


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8}){0,9}", text):
        raise ValueError(
            f"--shape: expected channels x height x width, as in 3x32x32; got {short_repr(text)}"
        )
    return tuple(map(int, text.split("x")))


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
