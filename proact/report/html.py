"""Renders templates and inline figures: HTML without scripts and external resources."""

from __future__ import annotations

import io
import re
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proact.text import MOST_OF_CELL, label

if TYPE_CHECKING:  # it imports matplotlib
    from matplotlib.figure import Figure

# Ids, and what refers to them, in the attributes of a tag.
_IDS = re.compile(r'(\bid="|xlink:href="#|url\(#)')


def rendered(template: str, **values: object) -> str:
    """Renders a template of this package.

    A ``str`` is a name: its `label` is shown, with HTML's escapes. A sentence, in which names are
    labels already, comes as ``Markup``.
    """
    return _templates().get_template(template).render(**values)


def inline_svg(figure: Figure, name: str = "proact") -> Markup:
    """A figure as an SVG element in the page's colours.

    Black becomes ``currentColor`` and white ``--proact-paper``; the page can set the palette's
    other colours as ``--proact-colour-1`` and so on. Text stays text. The same figure gives the
    same element.

    Args:
        name: a prefix of its ids, unique on the page.
    """
    import matplotlib

    from proact.report.style import unknown_signs

    written = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with (
        matplotlib.rc_context({"svg.hashsalt": "proact", "svg.fonttype": "none"}),
        unknown_signs(),
    ):
        figure.savefig(written, format="svg", metadata=no_metadata)
    svg = written.getvalue()
    # The XML prolog is for files; the style element would apply to the whole page.
    svg = svg[svg.index("<svg") :]
    before, _, rest = svg.partition("<style")
    svg = before + rest.partition("</style>")[2]
    return Markup(re.sub(r"<[^<>]+>", lambda tag: _of_page(tag[0], name), svg))


def _of_page(tag: str, name: str) -> str:
    """A tag in the page's colours, with prefixed ids. matplotlib omits black fills: the page's
    style sets them."""
    from proact.report.style import COLOURS

    tag = _IDS.sub(rf"\1{name}-", tag)
    tag = tag.replace(": #000000", ": currentColor").replace(": #ffffff", ": var(--proact-paper)")
    for index, colour in enumerate(COLOURS[1:], start=1):
        tag = tag.replace(f": {colour.lower()}", f": var(--proact-colour-{index}, {colour})")
    return tag


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("proact.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_name_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["label"] = label
    return made


def _name_shown(value: object) -> object:
    is_name = isinstance(value, str) and not isinstance(value, Markup)
    return label(value, MOST_OF_CELL) if is_name else value
