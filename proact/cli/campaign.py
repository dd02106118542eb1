"""``proact campaign``: how accuracy falls with faults, and what protections buy back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from proact.cli import options
from proact.cli.options import METHODS, METRICS, option
from proact.config import defaults

OUT = Path("runs/campaign")


def campaign(
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="A .yaml or .toml file that describes it; flags override its keys. Every run "
            "writes the one that repeats it.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    data: options.DataSet = None,
    method: Annotated[
        list[str] | None,
        option(
            "--method",
            "METHOD",
            help=f"A variant, the first being the baseline: {defaults.UNPROTECTED} (unprotected), "
            f"{', '.join(METHODS)}; with options as in ranger:mode=zero,granularity=hybrid, "
            "several methods as in proact+weight-range, or a file of thresholds (*.safetensors). "
            "Given again for each variant.",
            default=" ".join(defaults.METHODS),
            names=(defaults.UNPROTECTED, *METHODS),
        ),
    ] = None,
    ber: Annotated[
        list[str] | None,
        option(
            "--ber",
            "BER",
            help="Bit error rates, probabilities per stored bit in [0, 1], as in 1e-6,1e-5. May be "
            "given again.",
            default=",".join(f"{rate:g}" for rate in defaults.BERS),
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        option(
            "--fault",
            "JSON",
            help='Another fault as JSON, as in {"kind": "ExactFlips", "n": 3}. May be given again.',
        ),
    ] = None,
    encoding: options.EncodingName = None,
    margin: Annotated[
        float | None,
        option(
            "--margin",
            "MARGIN",
            help="A cell (a variant under a fault) stops when half the width of its interval is "
            "this, in the metric's unit, in (0, 1].",
            default=f"{defaults.MARGIN}, unless --trials is given",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        option("--trials", "COUNT", help="Fault patterns a cell (count); with a margin, the most."),
    ] = None,
    confidence: Annotated[
        float | None,
        option(
            "--confidence",
            "SHARE",
            help="Of the intervals, two-sided, a probability in (0, 1).",
            default=defaults.CONFIDENCE,
        ),
    ] = None,
    images: Annotated[
        str | None,
        option(
            "--images",
            "COUNT",
            help="Images a trial is judged on: a number, drawn anew for each, 'all', or 'auto' for "
            "what a pilot finds the quickest.",
            default=defaults.IMAGES_PER_TRIAL,
            names=("all", "auto"),
        ),
    ] = None,
    metric: Annotated[
        str | None,
        option(
            "--metric",
            "NAME",
            help=f"What is averaged over images: {', '.join(METRICS)}.",
            default=defaults.METRIC,
            names=METRICS,
        ),
    ] = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    workers: Annotated[
        int | None,
        option(
            "--workers",
            "COUNT",
            help="Processes that run trials (count).",
            default="as many as there are cores, where it is worth it",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        option(
            "--scheduler",
            "ADDRESS",
            help="Address of a Dask scheduler whose workers run them: tcp://host:port.",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        option(
            "--sweep",
            "KIND",
            help="Look besides for the layer, or the bit of a word, at which a single flip hurts "
            "the baseline most: layer or bit. May be given again.",
            names=("layer", "bit"),
        ),
    ] = None,
    data_folder: options.DataFolder = None,
    download: options.Download = None,
    image_size: options.ImageSize = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder for experiment.yaml, rows.sqlite and networks/. The same command goes on "
            "from there.",
        ),
    ] = OUT,
    as_json: options.AsJson = False,
) -> None:
    """Measure accuracy under faults, and what protections buy back.

    Trains (or reads) a network, protects copies of it, and runs all of them under the same faults.
    Without arguments: a small network on scikit-learn's digits. The same command goes on where an
    earlier one was interrupted.
    """
    from proact.cli.output import print_json, print_tables
    from proact.config.overrides import experiment_from
    from proact.config.progress import on_standard_error
    from proact.config.runner import run
    from proact.config.summary import document, tables

    given = {
        "network": model,
        "data": data,
        "variants": method,
        "ber": ber,
        "faults": fault,
        "encoding": encoding,
        "margin": margin,
        "trials": trials,
        "confidence": confidence,
        "images_per_trial": images,
        "metric": metric,
        "seed": seed,
        "threads": threads,
        "workers": workers,
        "scheduler": scheduler,
        "sweeps": sweep,
        "data_folder": data_folder,
        "download": download,
        "image_size": image_size,
    }
    outcome = run(experiment_from(experiment, given), out, on_standard_error())
    if as_json:
        print_json(document(outcome))
    else:
        print_tables(*tables(outcome))
        typer.echo(f"rows: {outcome.store}")
        again = ["proact", "campaign", str(outcome.file), "--out", str(out)]
        typer.echo(f"again: {shlex.join(again)}")
        typer.echo(f"report: {shlex.join(['proact', 'report', str(out)])}")
