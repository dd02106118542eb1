"""Options that several commands share, and the names that help pages list.

The names stand here once more, as texts: asking the rooms for them would load torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from proact.config import defaults

NETWORKS = (
    "small-cnn",
    "alexnet",
    "vgg16",
    "vgg16-bn",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "mobilenetv2",
)
DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagefolder")
METHODS = (
    "ranger",
    "ft-clipact",
    "fitact",
    "proact",
    "resilience-aware-proact",
    "weight-range",
)
ENCODINGS = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "int8",
    "int8-tensor",
    "native",
    "q15.16",
)
METRICS = ("top-1", "top-5", "loss", "sdc")
OWN = "file.py:attribute or module:attribute of your own"


def beginning(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Completes a name in a shell."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def option(
    flag: str,
    metavar: str | None = None,
    *,
    help: str,  # noqa: A002
    default: object = None,
    names: tuple[str, ...] = (),
) -> typer.models.OptionInfo:
    """An option of which None means that it was not given; ``default`` says what counts then."""
    found: typer.models.OptionInfo = typer.Option(
        flag,
        metavar=metavar,
        help=help if default is None else f"{help} [default: {default}]",
        show_default=False,
        autocompletion=beginning(names) if names else None,
    )
    return found


Model = Annotated[
    str | None,
    option(
        "--model",
        "NAME",
        help=f"Network, trained if needed: {', '.join(NETWORKS)}; or {OWN} (a trained "
        "torch.nn.Module, or a function that returns one).",
        default=defaults.NETWORK,
        names=NETWORKS,
    ),
]
DataSet = Annotated[
    str | None,
    option(
        "--data",
        "NAME",
        help=f"Data set: {', '.join(DATA_SETS)}; or {OWN} (a proact.data.Data, a pair of tensors "
        "(images, labels), a Dataset, or a function that returns one).",
        default=defaults.DATA,
        names=DATA_SETS,
    ),
]
DataFolder = Annotated[
    Path | None,
    option(
        "--data-folder",
        "FOLDER",
        help="Where the data set's files are; otherwise PROACT_DATA, the places of Debian's "
        "packages and ~/.cache/proact.",
    ),
]
Download = Annotated[
    bool | None,
    option(
        "--download/--no-download",
        help="Fetch files that are missing, through torchvision, into the folder.",
        default="no-download",
    ),
]
ImageSize = Annotated[
    int | None,
    option(
        "--image-size",
        "PIXELS",
        help="Height and width of an imagefolder's images (pixels).",
        default=defaults.IMAGE_SIZE,
    ),
]
EncodingName = Annotated[
    str | None,
    option(
        "--encoding",
        "NAME",
        help="Stored form of the parameters: float16, bfloat16, float32, float64, int8 (a scale an "
        "output channel), int8-tensor, native, or fixed point qM.N of up to 32 bits (1 sign, M "
        "integer, N fraction bits).",
        default=defaults.ENCODING,
        names=ENCODINGS,
    ),
]
Seed = Annotated[
    int | None,
    option(
        "--seed",
        "INTEGER",
        help="Of weights, faults and images: an integer in [0, 2^63). Same seed, same table (on "
        "one machine).",
        default=defaults.SEED,
    ),
]
Threads = Annotated[
    int | None,
    option(
        "--threads",
        "COUNT",
        help="Of torch (count). Small networks gain nothing from more, and the last digits of "
        "trained weights depend on it.",
        default=defaults.THREADS,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of tables, for scripts.")
]
