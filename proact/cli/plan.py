"""``proact plan``: finds the encoding and guard that keep the most accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from proact.cli.options import AsJson, given_values, takes_options
from proact.config.experiment import Experiment
from proact.options import options_of
from proact.protect.plan_options import PlanOptions

_SETUP = (
    "model",
    "data",
    "forward",
    "output",
    "collate",
    "loss",
    "validation_metric",
    "threads",
    "data_folder",
    "download",
    "image_size",
    "epochs",
)


@takes_options(PlanOptions)
@takes_options(Experiment, _SETUP)
def plan(
    models: Annotated[
        Path,
        typer.Option("--models", metavar="FOLDER", help="Folder that keeps the trained model."),
    ] = Path("runs/models"),
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Find the encoding and guard that keep the most accuracy.

    Compares formats, codes and guards that fit a memory budget under the same faults, on validation
    samples. Prints accuracy with intervals, clean accuracy, memory and the time of decoding.
    """
    from proact.cli.output import print_json, print_line, print_tables
    from proact.config.planning import plan_options, planned
    from proact.config.progress import on_standard_error
    from proact.config.reading import read_experiment

    own = options_of(PlanOptions)
    values, flags = given_values(PlanOptions, {k: v for k, v in given.items() if k in own})
    setup, of_setup = given_values(Experiment, {k: v for k, v in given.items() if k not in own})
    if "seed" in values:
        setup["seed"], of_setup["seed"] = values["seed"], flags["seed"]
    options = plan_options(values, flags)
    found = planned(read_experiment(None, setup, of_setup), options, models, on_standard_error())
    if as_json:
        print_json(found.document())
    else:
        print_tables(found.table())
        print_line(f"best: {found}")
