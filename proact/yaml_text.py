"""Write YAML in the core schema of version 1.2: ``1e-6`` is a number and ``no`` is a string."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from proact.text import printable

# YAML 1.2's core schema: tag and pattern of plain scalars, and their possible first characters.
_WORDS: list[tuple[str, str, str]] = [
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?\d+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
]


#: The forms of scalars by tag.
PATTERNS = {tag: re.compile(rf"(?:{pattern})\Z") for tag, pattern, _ in _WORDS}


def resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The tags of plain scalars by first character, as loaders and dumpers of PyYAML need them."""
    null = _WORDS[0][0]
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {"": [(null, PATTERNS[null])]}
    for tag, _, letters in _WORDS:
        for letter in letters:
            found.setdefault(letter, []).append((tag, PATTERNS[tag]))
    return found


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would not read as a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [*yaml.SafeDumper.yaml_implicit_resolvers.get(letter, []), *ours]
        for letter, ours in {
            **{letter: [] for letter in yaml.SafeDumper.yaml_implicit_resolvers},
            **resolvers(),
        }.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def serialize(self, node: yaml.Node) -> None:
        assert isinstance(node, yaml.MappingNode)
        node.flow_style = False  # one key per line, even if all values are plain
        super().serialize(node)


def dump(values: Mapping[str, Any]) -> str:
    """Format values as YAML in the order of their keys.

    Lists and mappings of plain values take one line each. Where a text has hidden characters, all
    characters beyond ASCII are written as escapes.
    """

    def written(allow_unicode: bool) -> str:
        return str(
            yaml.dump(
                values,
                Dumper=_Dumper,
                sort_keys=False,
                allow_unicode=allow_unicode,
                default_flow_style=None,
                width=100,
            )
        )

    text = written(allow_unicode=True)
    # PyYAML leaves hidden characters in it, such as marks of direction.
    return text if printable(text, sys.maxsize) == text else written(allow_unicode=False)
