"""Docstrings as the reference wants them: one name or error an item.

Ours put what belongs together into one item ("low, high: the ends") and name several errors in
running text ("ValueError: this. ProactError: that."), which reads well in an editor.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(
    r"^(?P<title>Args|Attributes|Raises):\n(?P<body>(?:[ \t]+\S.*(?:\n|\Z)|\n(?=[ \t]))+)",
    re.MULTILINE,
)
_SEVERAL = re.compile(r"(?P<indent>[ \t]*)(?P<names>\w+(?:, \w+)+): (?P<text>.*)", re.DOTALL)
_ERRORS = r"(?:[A-Z]\w*(?:Error|Interrupt)(?:, )?)+:"
_FURTHER = re.compile(rf"(?<=[.;]) (?={_ERRORS} )")


class OneAnItem(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(_split, obj.docstring.value)


def _split(section: re.Match[str]) -> str:
    title, body = section["title"], section["body"]
    indent = re.match(r"[ \t]*", body)[0]
    if title != "Raises":
        # An item begins at the section's indent; what is further in goes on.
        items = re.split(rf"^(?={indent}\S)", body, flags=re.MULTILINE)
        return f"{title}:\n" + "".join(_for_each_name(item) for item in items)
    text = " ".join(body.split())
    if not re.match(_ERRORS, text):  # "As `flip_bits_`; ..." names no error of its own
        return f"**Raises:** {text[0].lower()}{text[1:]}\n"
    return "Raises:\n" + "".join(f"{indent}{error}\n" for error in _FURTHER.split(text))


def _for_each_name(item: str) -> str:
    """ "low, high: the ends" as "low: with `high`: the ends" and "high: see `low`"."""
    found = _SEVERAL.match(item)
    if found is None:
        return item
    first, *others = found["names"].split(", ")
    together = ", ".join(f"`{name}`" for name in others)
    lines = [f"{first}: with {together}: {found['text'].rstrip()}"]
    lines += [f"{name}: see `{first}`." for name in others]
    return "".join(f"{found['indent']}{line}\n" for line in lines)
