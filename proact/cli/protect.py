"""``proact protect``: chooses thresholds and bounds, and writes them to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from proact.cli.options import AsJson, completing, given_values, takes_options
from proact.config.experiment import Experiment
from proact.protect.registry import METHODS

_OPTIONS = (
    "model",
    "data",
    "forward",
    "output",
    "collate",
    "loss",
    "validation_metric",
    "metric",
    "encoding",
    "seed",
    "threads",
    "data_folder",
    "download",
    "image_size",
    "training_images",
    "epochs",
)


@takes_options(Experiment, _OPTIONS)
def protect(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            help=f"Method of protection: {', '.join(METHODS)}; with options as in "
            "ranger:mode=zero,granularity=hybrid; several methods, applied in order, as in "
            "proact+weight-range.",
            autocompletion=completing(METHODS),
        ),
    ] = "proact",
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File for the thresholds, *.safetensors; an existing file is replaced. The "
            "trained model is kept in models/ beside it.",
        ),
    ] = Path("runs/thresholds.safetensors"),
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Choose thresholds and write them to a file.

    Prints their cost without faults. Apply them to a model by proact.protect.load, or use the file
    as a variant: proact campaign --variant relu --variant runs/thresholds.safetensors.
    """
    from proact.cli.output import print_json, print_line, print_tables
    from proact.config.progress import on_standard_error
    from proact.config.protecting import protect_into, protected_table
    from proact.config.reading import read_experiment

    values, flags = given_values(Experiment, given)
    values["variants"] = {"unprotected": "unprotected", method: method}
    flags["variants"] = "--method"
    done = protect_into(out, read_experiment(None, values, flags), on_standard_error())
    if as_json:
        print_json(done.document())
    else:
        print_tables(protected_table(done))
        print_line(f"thresholds: {out}")
