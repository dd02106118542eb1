"""Converts docstrings for the API reference, which expects one name or error per item.

The docstrings in the source group related names in one item ("low, high: the ends") and list
errors in running text ("ValueError: this. ProactError: that."), which is easier to read in an
editor.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(
    r"^(?P<title>Args|Attributes|Raises):\n(?P<body>(?:[ \t]+\S.*(?:\n|\Z)|\n(?=[ \t]))+)",
    re.MULTILINE,
)
_NAMES = re.compile(r"(?P<indent>[ \t]*)(?P<names>\w+(?:, \w+)+): (?P<text>.*)", re.DOTALL)
_ERRORS = r"(?:[A-Z]\w*(?:Error|Interrupt)(?:, )?)+:"
_NEXT_ERROR = re.compile(rf"(?<=[.;]) (?={_ERRORS} )")


class OneNamePerItem(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(_split, obj.docstring.value)


def _split(section: re.Match[str]) -> str:
    title, body = section["title"], section["body"]
    indent = re.match(r"[ \t]*", body)[0]
    if title != "Raises":
        # An item starts at the section's indent; lines with a deeper indent continue it.
        items = re.split(rf"^(?={indent}\S)", body, flags=re.MULTILINE)
        return f"{title}:\n" + "".join(_for_each_name(item) for item in items)
    text = " ".join(body.split())
    if not re.match(_ERRORS, text):  # such as "As `flip_bits_`; ..."
        return f"**Raises:** {text[0].lower()}{text[1:]}\n"
    return "Raises:\n" + "".join(f"{indent}{error}\n" for error in _NEXT_ERROR.split(text))


def _for_each_name(item: str) -> str:
    """Split "low, high: the ends" into "low: with `high`: the ends" and "high: see `low`"."""
    found = _NAMES.match(item)
    if found is None:
        return item
    first, *others = found["names"].split(", ")
    together = ", ".join(f"`{name}`" for name in others)
    lines = [f"{first}: with {together}: {found['text'].rstrip()}"]
    lines += [f"{name}: see `{first}`." for name in others]
    return "".join(f"{found['indent']}{line}\n" for line in lines)
