"""Writes a report: one self-contained page, and its figures and tables as files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from errno import EISDIR
from os import strerror
from pathlib import Path

from proact.errors import ProactError
from proact.report.analysis import Analysis
from proact.report.comparison import Comparison
from proact.report.exports import as_csv, as_latex, as_markdown
from proact.report.figures import PageFigures
from proact.report.files import PAGE
from proact.report.page import empty_page, page
from proact.report.style import figure_bytes
from proact.results.failure_rate import MemoryConditions
from proact.results.result import Result, has_unexplained_rows, read
from proact.results.store import Store


class NoTrialsError(ProactError):
    """The store holds no trial to report. The page that says so was written."""


def write_report(
    store: str | Path | Store,
    folder: str | Path,
    *,
    baseline: str | None = None,
    run: int | None = None,
    at: float | None = None,
    limit: float | None = None,
    family_wise: bool = False,
    compare: str | Path | Result | None = None,
    conditions: MemoryConditions | None = None,
) -> dict[str, Path]:
    """Writes a campaign of a store as ``report.html``, figures and tables.

    Args:
        store: a store of `proact.campaign.run`. It is only read; no model is needed.
        folder: for the files; created where it does not exist.
        baseline: the variant that the others are compared with; by default the first.
        run: the number of a campaign in the store; by default the last one. Sweeps over
            layers and bits of the same data are shown too.
        at: the bit error rate per exposed bit (under `ExactFlips` the number of flips) whose
            distribution of trials is shown first; by default the one at which the trials of the
            baseline vary most.
        limit, family_wise: of verdicts; see `proact.results.Result.report`.
        compare: another campaign, or a store whose last campaign is meant; a section of the page
            shows the variants and faults that both have side by side, with the settings that
            differ.
        conditions: of the memory in operation; see `proact.results.Result.report`.

    Returns:
        The paths by kind: ``html``, ``csv``, ``latex``, ``markdown``, and each figure with
        ``.png`` and ``.svg``, such as ``accuracy.png``.

    Raises:
        ValueError: an unknown variant, run or rate, a limit out of range, or a campaign to compare
            with that has another metric or no cell in common; the campaign has no cell at the bit
            error rate of the conditions.
        ProactError: the store cannot be read or the folder cannot be written; nothing was written.
        NoTrialsError: no trial is stored; the page that says so was written.
    """
    name = _name_of(store)
    runs = read(store)
    chosen = _chosen(runs, run, name)
    if chosen is None:
        is_older = has_unexplained_rows(store)
        written = _write(Path(folder), {PAGE: empty_page(name, is_older).encode()})
        reason = "no trial of a campaign yet: run a campaign first"
        if is_older:
            reason = (
                "only trials of an older version of proact: rerun the same command to describe them"
            )
        raise NoTrialsError(f"{name} holds {reason} ({written[PAGE]})")
    analysis = Analysis(chosen, baseline, limit, family_wise, conditions)
    comparison = None if compare is None else _compared(analysis, compare)
    figures = PageFigures(analysis, [each for each in runs if each.spec.kind != "campaign"], at)
    campaigns = [each.number for each in runs if each.spec.kind == "campaign"]
    others = [number for number in campaigns if number != chosen.number]
    files = {PAGE: page(analysis, figures, name, others, comparison).encode()}
    for title, figure in figures.figures.items():
        for ending in (".png", ".svg"):
            files[f"{title}{ending}"] = figure_bytes(figure, ending)
    tables = {"csv": as_csv(analysis), "tex": as_latex(analysis), "md": as_markdown(analysis)}
    files |= {f"cells.{ending}": text.encode() for ending, text in tables.items()}
    written = _write(Path(folder), files)
    if not analysis.has_trials:
        reason = "all of its trials failed" if analysis.failed else "it has no trial yet"
        raise NoTrialsError(f"{name} holds no result of this campaign: {reason} ({written[PAGE]})")
    kinds = {PAGE: "html", "cells.csv": "csv", "cells.tex": "latex", "cells.md": "markdown"}
    return {kinds.get(file, file): path for file, path in written.items()}


def _name_of(store: str | Path | Store) -> str:
    path = store.path if isinstance(store, Store) else Path(store)
    return "the store" if path is None else str(path)


def _chosen(runs: Sequence[Result], number: int | None, name: str) -> Result | None:
    campaigns = [each for each in runs if each.spec.kind == "campaign"]
    if number is None:
        return campaigns[-1] if campaigns else None
    for each in campaigns:
        if each.number == number:
            return each
    known = ", ".join(str(each.number) for each in campaigns) or "none"
    raise ValueError(f"the campaigns of {name} have the numbers {known}; got {number}")


def _compared(analysis: Analysis, compare: str | Path | Result) -> Comparison:
    if isinstance(compare, Result):
        return Comparison(analysis, compare, compare.spec.name or compare.place)
    name = _name_of(compare)
    chosen = _chosen(read(compare), None, name)
    if chosen is None:
        raise ProactError(f"{name} holds no campaign to compare with")
    return Comparison(analysis, chosen, name)


def _write(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    """Writes all files or none: existing files are replaced when all new ones are complete."""
    parts = {folder / name: folder / f".{name}.part" for name in files}
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, part in parts.items():
            if path.is_dir():
                raise IsADirectoryError(EISDIR, strerror(EISDIR), str(path))
            part.write_bytes(files[path.name])
        for path, part in parts.items():
            part.replace(path)
    except OSError as error:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()
        for made in missing:
            with suppress(OSError):
                made.rmdir()
        reason = f"{error.filename or folder}: {error.strerror}"
        raise ProactError(f"the report cannot be written to {folder}: {reason}") from None
    return {name: folder / name for name in files}
