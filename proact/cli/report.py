"""``proact report``: writes a store as a page, figures and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proact.cli.options import AsJson

if TYPE_CHECKING:
    from proact.results import MemoryConditions


def report(
    store: Annotated[
        Path,
        typer.Argument(
            metavar="STORE",
            help="A store (rows.sqlite), or the folder of a campaign.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            show_default=False,
            help="Folder for the files. [default: the store's folder]",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="VARIANT",
            show_default=False,
            help="Variant over which gains are computed. [default: the first of the campaign]",
        ),
    ] = None,
    run: Annotated[
        int | None,
        typer.Option(
            "--run",
            metavar="NUMBER",
            show_default=False,
            help="Number of the run, if the store holds several. [default: the most recent one]",
        ),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(
            "--at",
            metavar="BER",
            show_default=False,
            help="Bit error rate, per exposed bit, whose distribution of trials is shown first; "
            "under ExactFlips the number of flips. [default: the one at which the trials of the "
            "baseline vary most]",
        ),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            "--limit",
            metavar="LOSS",
            show_default=False,
            help="Loss that verdicts allow, in the metric's unit: 0.02 is 2 points of accuracy. "
            "[default: 5 % of the metric's range]",
        ),
    ] = None,
    family_wise: Annotated[
        bool,
        typer.Option(
            "--family-wise",
            help="Widen the intervals by Bonferroni's correction, so that all verdicts hold "
            "together at the confidence of the campaign.",
        ),
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="STORE",
            show_default=False,
            help="Another store, or the folder of a campaign, whose last campaign the page shows "
            "beside this one.",
        ),
    ] = None,
    fit_per_mbit: Annotated[
        float | None,
        typer.Option(
            "--fit-per-mbit",
            metavar="FIT",
            show_default=False,
            help="Raw rate of upsets of the memory, in 1e9 hours and 2^20 bits: adds a section on "
            "failures per hour. Needs --reload-hours.",
        ),
    ] = None,
    reload_hours: Annotated[
        float | None,
        typer.Option(
            "--reload-hours",
            metavar="HOURS",
            show_default=False,
            help="Time between two reloads or scrubs of the parameters, in hours.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="BUDGET",
            show_default=False,
            help="Allowed rate of failures: asil-d (10 FIT), asil-c or asil-b (100 FIT), or a "
            "number in FIT.",
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a report from a store.

    Writes one HTML page that works offline, figures (PNG, SVG) and tables (CSV, LaTeX, Markdown).
    """
    from proact.cli.output import print_json, print_line
    from proact.report import write_report

    place = _store_at(store)
    target = place.parent if out is None else out
    files = write_report(
        place,
        target,
        baseline=baseline,
        run=run,
        at=at,
        limit=limit,
        family_wise=family_wise,
        compare=None if compare is None else _store_at(compare),
        conditions=_conditions(fit_per_mbit, reload_hours, budget),
    )
    if as_json:
        print_json({kind: str(path) for kind, path in files.items()})
    else:
        for kind, path in files.items():
            print_line(f"{kind}: {path}")
    if open_it:
        import webbrowser

        webbrowser.open(files["html"].resolve().as_uri())


def _conditions(
    fit_per_mbit: float | None, reload_hours: float | None, budget: str | None
) -> MemoryConditions | None:
    from proact.results import MemoryConditions

    if fit_per_mbit is None and reload_hours is None and budget is None:
        return None
    if fit_per_mbit is None or reload_hours is None:
        missing = "--reload-hours" if reload_hours is None else "--fit-per-mbit"
        raise ValueError(
            f"failures per hour need --fit-per-mbit and --reload-hours; {missing} is missing"
        )
    try:
        allowed = None if budget is None else float(budget)
    except ValueError:
        return MemoryConditions(fit_per_mbit, reload_hours, budget)
    return MemoryConditions(fit_per_mbit, reload_hours, allowed)


def _store_at(path: Path) -> Path:
    return path / "rows.sqlite" if path.is_dir() else path
