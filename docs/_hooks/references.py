"""Links full names in code, such as `proact.nn.find_sites`, to the API reference if it has them."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"<code>(?P<name>proact(?:\.\w+)+)</code>")
# Leave existing links and headings unchanged.
_KEPT = re.compile(r"<(a|h[1-6]|autoref)\b.*?</\1>", re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    parts, end = [], 0
    for kept in _KEPT.finditer(content):
        parts += [_linked(content[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*parts, _linked(content[end:])])


def _linked(content: str) -> str:
    return _NAME.sub(
        lambda found: f'<autoref identifier="{found["name"]}" optional>{found[0]}</autoref>',
        content,
    )
