"""The page: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import yaml
from markupsafe import Markup, escape

from proact.report.analysis import Cost, Findings, cost_of
from proact.report.figures import Drawings
from proact.report.html import rendered
from proact.report.narrative import how_measured, verdict
from proact.report.units import rate
from proact.results.run_log import facts_digest

#: Trials that could not be run are listed up to this number.
_MOST_FAILURES = 20
_RATE = re.compile(r"\b\d+(?:\.\d+)?e-\d+\b")


def page(findings: Findings, drawings: Drawings, store: str, others: Sequence[int]) -> str:
    """A campaign as HTML; ``store`` is what the page says it was read from, ``others`` the numbers
    of the other campaigns in it."""
    run = findings.run
    costs = {name: _cost(findings, name) for name in findings.variants}
    return rendered(
        "report.html",
        title=_title(findings),
        findings=findings,
        run=run,
        scale=findings.scale,
        rate=rate,
        verdicts=[(name, _whole(verdict(findings, name, cost))) for name, cost in costs.items()],
        costs=costs,
        drawings=drawings,
        paragraphs=[how_measured(findings, family) for family in findings.families],
        sessions=findings.stored.sessions,
        failures=_failures(findings)[:_MOST_FAILURES],
        identity=facts_digest(run.facts),
        facts=json.dumps(run.facts, indent=2, sort_keys=True),
        experiment=_repeating(findings),
        store=store,
        others=others,
    )


def empty_page(store: str, is_older: bool) -> str:
    """Of a store without a campaign; an older one may hold rows that nothing explains."""
    title = "Nothing to report yet"
    return rendered("report_empty.html", title=title, store=store, is_older=is_older)


def _title(findings: Findings) -> str:
    run = findings.run
    experiment = run.notes.get("experiment")
    if isinstance(experiment, Mapping) and "network" in experiment:
        told = str(experiment["network"])
        return f"{told} on {experiment['data']}" if "data" in experiment else told
    return run.name or " and ".join(dict.fromkeys(variant.network for variant in run.variants))


def _cost(findings: Findings, variant: str) -> Cost:
    costs = findings.run.notes.get("costs")
    mine = costs.get(variant) if isinstance(costs, Mapping) else None
    return cost_of(findings.run.variant(variant), mine or {})


def _failures(findings: Findings) -> list[tuple[str, str, int, str]]:
    return [
        (variant, fault, trial, reason)
        for (variant, fault), failed in findings.stored.failures().items()
        for trial, reason in failed
    ]


def _whole(text: str) -> Markup:
    """Text in which no line is broken inside a rate, such as after the ``-`` of ``1e-5``."""
    return Markup(_RATE.sub(r'<span class="rate">\g<0></span>', str(escape(text))))


def _repeating(findings: Findings) -> str | None:
    """The experiment file that would repeat the run, with the number of images that was chosen."""
    run = findings.run
    experiment = run.notes.get("experiment")
    if isinstance(experiment, Mapping) and "images_per_trial" in experiment:
        experiment = {**experiment, "images_per_trial": run.images_per_trial or "all"}
    if experiment is None:
        return None
    return str(yaml.safe_dump(experiment, sort_keys=False, allow_unicode=True))
