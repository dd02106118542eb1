"""Do the packages import each other as CONTRIBUTING.md draws them, without a cycle?

import-linter holds the layers; here the graph is walked itself, with the imports inside functions.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason="import-linter brings it: pip install 'proact[dev]'")

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "proact"
#: Modules below all packages, which the drawing leaves out.
BASE = {
    *("_native", "errors", "files", "interruption", "lazy_imports", "limits", "options"),
    *("plain_values", "shortages", "text", "yaml_text"),
}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """By module, the modules that it imports, also inside functions and for type checkers."""
    graph = grimp.build_graph("proact", exclude_type_checking_imports=True)
    # The package itself is where a renderer is installed, and is imported before all others.
    modules = graph.modules - {"proact"}
    return {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}


def packages_of(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same for packages: the first part of a module's name below proact."""
    found: dict[str, set[str]] = {}
    for module, imported in imports.items():
        package = module.split(".")[1]
        found.setdefault(package, set()).update(name.split(".")[1] for name in imported)
    return {package: others - {package} for package, others in found.items()}


def assert_no_cycle(graph: Mapping[str, set[str]]) -> None:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other in a circle: {' -> '.join(error.args[1])}")


def test_no_module_imports_itself_by_way_of_others(imports: dict[str, set[str]]) -> None:
    assert_no_cycle(imports)


def test_no_package_imports_itself_by_way_of_others(imports: dict[str, set[str]]) -> None:
    assert_no_cycle(packages_of(imports))


def test_the_drawing_in_contributing_is_true(imports: dict[str, set[str]]) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawing = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert drawing is not None
    drawn = {tuple(pair) for pair in re.findall(r"(\w+) --> (\w+)", drawing[1])}
    packages = {name: others - BASE for name, others in packages_of(imports).items()}
    there = {(name, other) for name, others in packages.items() for other in others}
    there = {pair for pair in there if pair[0] not in {*BASE, "__main__"}}
    assert drawn == _without_shortcuts(there)


def _without_shortcuts(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no chain of others stands for."""
    reached: dict[str, set[str]] = {}

    def below(package: str) -> set[str]:
        if package not in reached:
            mine = {other for first, other in arrows if first == package}
            reached[package] = mine.union(*(below(other) for other in mine))
        return reached[package]

    return {
        (first, other)
        for first, other in arrows
        if not any(other in below(between) for start, between in arrows if start == first)
    }


def test_no_two_classes_have_one_name() -> None:
    names = Counter(name for path in SOURCE.rglob("*.py") for name in _classes(path))
    assert [name for name, count in names.items() if count > 1] == []


def _classes(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node.name for node in tree.body if isinstance(node, ast.ClassDef))


def test_no_class_has_a_finalizer() -> None:
    """Python drops exceptions in them, and with these a Ctrl-C that arrives there."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in SOURCE.rglob("*.py")}
    assert not [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__del__"
    ]
