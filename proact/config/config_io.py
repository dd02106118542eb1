"""Read YAML and TOML files as plain values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import yaml

from proact.files import read_regular
from proact.plain_values import MOST_LEVELS, TOO_DEEP, check_limits, parse_integer
from proact.text import short_repr, shortened
from proact.yaml_text import PATTERNS, resolvers

_YAML, _TOML = (".yaml", ".yml"), (".toml",)
_MOST_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = resolvers()

    # PyYAML's own constructors for other tags, such as !!timestamp, fail on some texts.
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._level += 1
        if self._level > MOST_LEVELS:
            raise yaml.composer.ComposerError(None, None, TOO_DEEP, self.get_mark())
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(node, yaml.ScalarNode) and not _fits(node):
            problem = f"{short_repr(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # PyYAML silently keeps the last of two equal keys.
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in seen:
                problem = f"expected distinct keys, got {short_repr(key)} twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Does not merge mappings, which is no part of YAML 1.2."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # YAML 1.2 has neither octal numbers by a leading zero nor base 60 by a colon.
        text = self.construct_scalar(node)
        return int(text, 16) if "x" in text else parse_integer(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(
            self.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
        )


_Loader.yaml_constructors |= {
    f"tag:yaml.org,2002:{kind}": getattr(_Loader, f"construct_yaml_{kind}")
    for kind in ("null", "bool", "int", "float", "str", "seq", "map")
}
_Loader.yaml_constructors[None] = _Loader.construct_undefined


def _fits(node: yaml.ScalarNode) -> bool:
    """Whether a scalar has the form of its tag, which may be explicit, as in ``!!int x``."""
    pattern = PATTERNS.get(node.tag)
    return pattern is None or pattern.match(node.value) is not None


def read(path: Path) -> dict[str, Any]:
    """Read the mapping in a .yaml, .yml or .toml file.

    Raises:
        ValueError: the file has another suffix, is not valid YAML or TOML, holds no mapping, or
            exceeds the limits of `proact.plain_values`.
        ProactError: the file cannot be read, is no regular file, or is larger than 1 MB.
    """
    if path.suffix.lower() not in (*_YAML, *_TOML):
        raise ValueError(f"expected a file *.yaml, *.yml or *.toml, got {short_repr(str(path))}")
    try:
        text = read_regular(path, "an experiment file", _MOST_BYTES).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    values = _toml(path, text) if path.suffix.lower() in _TOML else _yaml(path, text)
    try:
        check_limits(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no experiment: expected keys such as model and variants")
    return values


def _yaml(path: Path, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}:" if mark is not None else ""
        hint = "" if "alias" not in str(error) else "; text that begins with * or & needs quotes"
        problem = shortened(str(error.problem), 200)
        raise ValueError(f"{path}:{place} {problem}{hint}") from None
    except (yaml.YAMLError, ValueError) as error:
        problem = shortened(" ".join(str(error).split()), 200)
        raise ValueError(f"{path} is not valid YAML: {problem}") from None


def _toml(path: Path, text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is not valid TOML: {TOO_DEEP}") from None
    except ValueError as error:  # also for an integer of thousands of digits
        problem = shortened(" ".join(str(error).split()), 200)
        raise ValueError(f"{path} is not valid TOML: {problem}") from None
