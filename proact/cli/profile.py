"""``proact profile``: what activation sites does a network have, and what would thresholds take?"""

from __future__ import annotations

from typing import Annotated

import typer

from proact.cli import options
from proact.cli.options import DATA_SETS, NETWORKS, OWN, beginning, option
from proact.config.defaults import IMAGE_SIZE


def profile(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help=f"Network: {', '.join(NETWORKS)}; or {OWN}.",
            autocompletion=beginning(NETWORKS),
        ),
    ] = "vgg16",
    data: Annotated[
        str | None,
        option(
            "--data",
            "NAME",
            help=f"Data set whose images and classes the network is for: {', '.join(DATA_SETS)}; "
            f"or {OWN}.",
            names=DATA_SETS,
        ),
    ] = None,
    shape: Annotated[
        str, typer.Option("--shape", metavar="CxHxW", help="Of an image, unless --data says.")
    ] = "3x32x32",
    classes: Annotated[
        int, typer.Option("--classes", metavar="COUNT", help="Count, unless --data says.")
    ] = 10,
    data_folder: options.DataFolder = None,
    download: options.Download = None,
    image_size: options.ImageSize = None,
    as_json: options.AsJson = False,
) -> None:
    """List activation sites, and what thresholds would take.

    Every site in execution order, and how many thresholds each granularity stores: the memory of a
    protection, before any training.
    """
    from proact.cli.output import print_json, print_tables
    from proact.config.profiling import profile_of
    from proact.config.user_code import dataset

    images = None
    if data is not None:
        size = IMAGE_SIZE if image_size is None else image_size
        images = dataset(data, data_folder, download=bool(download), image_size=size)
    found = profile_of(model, images, shape, classes)
    if as_json:
        print_json(found.document())
    else:
        print_tables(*found.tables())
