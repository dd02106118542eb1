"""``proact campaign``: measures accuracy under faults, with and without protection."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from proact.cli.errors import DONE, TRIALS_FAILED, print_warning
from proact.cli.options import AsJson, given_values, takes_options
from proact.config.experiment import Experiment
from proact.report.files import FIGURES, PAGE


@takes_options(Experiment)
def campaign(
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="A .yaml or .toml file with any of the options below; options on the command line "
            "replace those of the file. Every run writes the file that repeats it.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder for experiment.yaml, rows.sqlite and models/. The same command "
            "continues from there.",
        ),
    ] = Path("runs/campaign"),
    report: Annotated[
        bool, typer.Option("--report", help="Also write the report into the folder.")
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", hidden=True, help="The earlier name of --variant."),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Repeat the trials that failed in an earlier run of the same command. Without "
            "it, only trials whose worker died are repeated.",
        ),
    ] = False,
    as_json: AsJson = False,
    **given: Any,
) -> int:
    """Measure accuracy under faults, with and without protection.

    Trains (or reads) a model, protects copies of it, and runs all of them under the same faults.
    The default is a small model on scikit-learn's digits. An interrupted command can be rerun;
    finished work is kept. The exit status is 3 if trials failed.
    """
    from proact.cli.output import print_json, print_line, print_tables
    from proact.config.progress import on_standard_error
    from proact.config.reading import read_experiment
    from proact.config.runner import run
    from proact.config.summary import conditions, document, failed_trials, tables, worst_cases

    variants = [*(method or ()), *(given["variants"] or ())]
    values, flags = given_values(Experiment, {**given, "variants": variants or None})
    files = (PAGE, *FIGURES) if report else ()
    outcome = run(
        read_experiment(experiment, values, flags),
        out,
        on_standard_error(),
        files,
        retry_failed=retry_failed,
    )
    page = outcome.result.report(out) if report else None
    if as_json:
        print_json(document(outcome))
    else:
        print_tables(*tables(outcome))
        print_line(conditions(outcome))
        for sentence in (*worst_cases(outcome), *outcome.result.findings):
            print_line(sentence)
        print_line(f"rows: {outcome.store}")
        repeat = ["proact", "campaign", str(outcome.file), "--out", str(out)]
        print_line(f"repeat: {shlex.join(repeat)}")
        print_line(f"report: {page or shlex.join(['proact', 'report', str(out)])}")
    failed = failed_trials(outcome)
    if failed is not None:
        print_warning(failed)
    return DONE if failed is None else TRIALS_FAILED
