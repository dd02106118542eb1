"""``proact protect``: thresholds and bounds into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proact.cli import options
from proact.cli.options import METHODS, beginning


def protect(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            help=f"How: {', '.join(METHODS)}; with options as in "
            "ranger:mode=zero,granularity=hybrid, several methods one after the other as in "
            "proact+weight-range.",
            autocompletion=beginning(METHODS),
        ),
    ] = "proact",
    model: options.Model = None,
    data: options.DataSet = None,
    encoding: options.EncodingName = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    data_folder: options.DataFolder = None,
    download: options.Download = None,
    image_size: options.ImageSize = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File for the thresholds, *.safetensors, replaced where it exists; the trained "
            "network is kept in networks/ beside it.",
        ),
    ] = Path("runs/thresholds.safetensors"),
    as_json: options.AsJson = False,
) -> None:
    """Choose thresholds and keep them in a file.

    Tells what they cost without faults. A network takes them with proact.protect.load, or as a
    variant of a campaign: proact campaign --method relu --method runs/thresholds.safetensors.
    """
    from proact.cli.output import print_json, print_tables
    from proact.config.overrides import experiment_from
    from proact.config.progress import on_standard_error
    from proact.config.protecting import protect_into

    given = {
        "network": model,
        "data": data,
        "variants": {"unprotected": "unprotected", method: method},
        "encoding": encoding,
        "seed": seed,
        "threads": threads,
        "data_folder": data_folder,
        "download": download,
        "image_size": image_size,
    }
    done = protect_into(out, experiment_from(None, given), on_standard_error())
    if as_json:
        print_json(done.document())
    else:
        print_tables(done.table())
        typer.echo(f"thresholds: {out}")
