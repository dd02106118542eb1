"""Renders the page: one HTML file without scripts, which loads nothing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from proact.report.analysis import Analysis, mark
from proact.report.comparison import Comparison
from proact.report.description import model_and_data
from proact.report.figures import PageFigures
from proact.report.html import rendered
from proact.report.narrative import how_measured, verdict
from proact.report.units import decimal, percent, rate
from proact.results.run_log import facts_digest
from proact.text import label, printable
from proact.yaml_text import dump

#: The most failed trials that are listed.
_MOST_FAILURES = 20
#: The metrics that count each image as right or wrong.
_OF_WHOLE_IMAGES = ("top-1", "top-5", "sdc")
_RATE = re.compile(r"\b\d+(?:\.\d+)?e-\d+\b")


def page(
    analysis: Analysis,
    figures: PageFigures,
    store: str,
    others: Sequence[int],
    comparison: Comparison | None = None,
) -> str:
    """A campaign as HTML.

    Args:
        store: names the store on the page.
        others: the numbers of the other campaigns in it.
        comparison: with another campaign.
    """
    run = analysis.run
    return rendered(
        "report.html",
        title=escape(_title(analysis)),
        analysis=analysis,
        run=run,
        units=analysis.units,
        whole_images=_OF_WHOLE_IMAGES,
        rate=rate,
        decimal=decimal,
        in_percent=percent,
        mark=mark,
        verdicts=[(name, _whole(verdict(analysis, name))) for name in analysis.variants],
        figures=figures,
        comparison=comparison,
        compared_figures=[] if comparison is None else figures.compared(comparison),
        paragraphs=[_whole(how_measured(analysis, family)) for family in analysis.families],
        sessions=analysis.result.sessions,
        failures=_failures(analysis)[:_MOST_FAILURES],
        identity=facts_digest(run.facts),
        facts=escape(json.dumps(run.facts, indent=2, sort_keys=True)),
        experiment=_repeating(analysis),
        store=store,
        others=others,
    )


def empty_page(store: str, is_older: bool) -> str:
    """The page of a store without a campaign; an older store may hold rows without a run."""
    title = Markup("Nothing to report yet")
    return rendered("report_empty.html", title=title, store=store, is_older=is_older)


def _title(analysis: Analysis) -> str:
    run = analysis.run
    classes = " and ".join(dict.fromkeys(label(variant.model_class) for variant in run.variants))
    return model_and_data(run) or label(run.name or "") or classes


def _failures(analysis: Analysis) -> list[tuple[str, str, int, str]]:
    return [
        (variant, fault, trial, reason)
        for (variant, fault), failed in analysis.result.failures().items()
        for trial, reason in failed
    ]


def _whole(text: str) -> Markup:
    """Sentences for HTML, without line breaks inside rates, such as after the ``-`` of ``1e-5``."""
    shown = str(escape(printable(text, sys.maxsize)))
    return Markup(_RATE.sub(r'<span class="rate">\g<0></span>', shown))


def _repeating(analysis: Analysis) -> Markup | None:
    """The experiment file that repeats the run, with the chosen number of images per trial."""
    run = analysis.run
    experiment = run.notes.get("experiment")
    if isinstance(experiment, Mapping) and "images_per_trial" in experiment:
        experiment = {**experiment, "images_per_trial": run.images_per_trial or "all"}
    if experiment is None:
        return None
    return escape(dump(experiment))
