"""Converts TeX to MathML at build time, so that browsers render equations without any download.

`pymdownx.arithmatex` finds the equations and marks them as ``\\(...\\)`` and ``\\[...\\]``.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    return _EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    is_block = found["tag"] == "div"
    tex = html.unescape(found["tex"]).strip()
    mathml = convert(tex, display="block" if is_block else "inline")
    return f'<div class="equation">{mathml}</div>' if is_block else mathml
