"""Read YAML and TOML files as plain values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from proact.errors import ProactError
from proact.yaml_text import resolvers

_YAML, _TOML = (".yaml", ".yml"), (".toml",)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # PyYAML silently keeps the last of two equal keys.
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected distinct keys, got {key!r} twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # YAML 1.2 has neither octal numbers by a leading zero nor base 60 by a colon.
        text = self.construct_scalar(node)
        return int(text, 16) if "x" in text else int(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(
            self.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
        )


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read(path: Path) -> dict[str, Any]:
    """Read the mapping in a .yaml, .yml or .toml file.

    Raises:
        ValueError: the file has another suffix, is not valid YAML or TOML, or holds no mapping.
        ProactError: the file cannot be read.
    """
    if path.suffix.lower() not in (*_YAML, *_TOML):
        raise ValueError(f"expected a file *.yaml, *.yml or *.toml, got {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ProactError(f"there is no file {path}") from None
    except OSError as error:
        raise ProactError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    values = _toml(path, text) if path.suffix.lower() in _TOML else _yaml(path, text)
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
        raise ValueError(f"{path}:{place} {error.problem}{hint}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def _toml(path: Path, text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
