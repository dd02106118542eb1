"""Do tables, pages, figures, exports and messages show names as data, whatever is in them?"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hostile import LONG, METRIC, NAMES, OPTIONS, accuracy, is_safe, on_terminal, samples
from pages import Page, tables_of
from torch import Tensor, nn

from proact import campaign
from proact.campaign import Metric
from proact.config.config_io import read as read_file
from proact.faults import BitFlip, FaultSpace, encoding_report
from proact.report import write_report
from proact.report.cost_tables import cost_table
from proact.report.exports import spreadsheet
from proact.report.fault_tables import encoding_table, fault_space_table
from proact.report.tables import Column, gains_table, make_table
from proact.results import Result, read
from proact.text import MOST_OF_CELL, label, visible
from proact.yaml_text import dump

pytestmark = pytest.mark.long


class Hostile(nn.Module):
    """A model whose parameters and modules have hostile names."""

    def __init__(self) -> None:
        super().__init__()
        self.names = [name for name in NAMES if "." not in name]
        for number, name in enumerate(self.names):
            self.add_module(name, nn.Linear(4, 4))
            self.register_parameter(f"p{number}{name}", nn.Parameter(torch.ones(4)))

    def forward(self, x: Tensor) -> Tensor:
        for number, name in enumerate(self.names):
            x = x + self.get_submodule(name)(x) * self.get_parameter(f"p{number}{name}") / 100
        return x


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "rows.sqlite"
    torch.manual_seed(0)
    models = {name: nn.Linear(4, 4) for name in NAMES}
    metric = Metric(METRIC, accuracy)
    notes = {
        "experiment": {"model": NAMES[1], "data": NAMES[6], "variants": dict.fromkeys(NAMES, "x")},
        "costs": {name: {"latency": 1.5} for name in NAMES},
        "checks": {name: {"unread": NAMES, "written": NAMES} for name in NAMES[:8]},
    }
    where = ("*", NAMES[0], LONG)
    faults = [BitFlip(1e-2, where=where), BitFlip(1e-1, where=where)]
    campaign.per_layer(
        Hostile(), samples(), **{**OPTIONS, "trials": 300}, metric=metric, name=NAMES[0], store=path
    )
    campaign.run(
        models, samples(), faults, metric=metric, store=path, notes=notes, name=NAMES[7], **OPTIONS
    )
    return path


@pytest.fixture(scope="module")
def result(store: Path) -> Result:
    return read(store)[-1]


@pytest.fixture(scope="module")
def written(store: Path, result: Result) -> dict[str, Path]:
    return write_report(store, store.parent / "report", compare=read(store)[-1].at_confidence(0.9))


def test_the_store_gives_the_names_back(result: Result) -> None:
    assert list(result.clean) == NAMES
    assert result.metric == METRIC
    assert result.spec.name == NAMES[7]
    assert set(result.to_pandas()["variant"]) == set(NAMES)


def test_tables_on_a_terminal(result: Result) -> None:
    tables = [result.table(), gains_table(result, NAMES[6])]
    tables.append(cost_table(dict.fromkeys(NAMES[:9], COST), NAMES[3]))
    shown = on_terminal(*tables)
    assert is_safe(shown)
    assert max(map(len, shown.splitlines())) < 1000
    first = [str(text) for text in result.table().columns[0].cells if str(text)]
    assert first == [label(name, MOST_OF_CELL) for name in NAMES]
    assert len(set(first)) == len(NAMES)
    for name in ("relu[half]", "[/nope]", ":smile:", "a\\nb", "\\x1b[31mred", "relu\\x20"):
        assert name in shown
    assert is_safe(on_terminal(*tables, width=40))


COST = {"thresholds": 0, "bounds": 0, "bytes": 0, "percent": 0, "clean": 1, "clean_soft": 1}
COST["latency"] = 1


def test_tables_of_tensors() -> None:
    model = Hostile()
    report = encoding_report(model, "q7.8")
    tables = [encoding_table(report), fault_space_table(FaultSpace(model))]
    tables.append(make_table(["[/a]", Column(("b", "[c]"))], [("[/x]", 1)], "[/t]", "[/c]"))
    shown = on_terminal(*tables)
    assert is_safe(shown)
    assert "relu[half].weight" in shown
    assert "[/x]" in shown


def test_the_page(written: dict[str, Path]) -> None:
    text = written["html"].read_text("utf-8")
    assert is_safe(text)
    page = Page(written["html"])
    assert {"script", "i"}.isdisjoint(tag for tag, _ in page.tags)
    whole = {"pre"}
    assert whole <= {tag for tag, _ in page.tags}
    for table in page.tables:
        assert len({len(row) for row in table}) == 1
        assert max(len(cell) for row in table for cell in row) < 1500
    costs = [row[0] for row in page.table("variant", "thresholds")]
    assert costs == [label(name, MOST_OF_CELL) for name in NAMES]
    values = next(table for table in page.tables if table[0][0] == "BER per bit")
    assert values[0][1:] == costs


def test_what_the_page_repeats_is_read_back(written: dict[str, Path], tmp_path: Path) -> None:
    (found,) = re.findall(r"<pre>(model.*?)</pre>", written["html"].read_text("utf-8"), re.DOTALL)
    file = tmp_path / "experiment.yaml"
    file.write_text(ElementTree.fromstring(f"<p>{found}</p>").text or "", "utf-8")
    assert read_file(file)["variants"] == dict.fromkeys(NAMES, "x")


def test_figures(written: dict[str, Path]) -> None:
    figures = [path for path in written.values() if path.suffix == ".svg"]
    assert len(figures) >= 4
    for path in figures:
        root = ElementTree.parse(path).getroot()
        assert float(root.attrib["width"].removesuffix("pt")) < 5000
    inline = re.findall(r"<svg.*?</svg>", written["html"].read_text("utf-8"), re.DOTALL)
    texts = set()
    for svg in inline:
        namespaces = (
            ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        )
        bare = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
        root = ElementTree.fromstring(bare.replace("<svg", f"<svg{namespaces}", 1))
        texts |= {
            text.strip()
            for each in root.iter()
            if each.tag.endswith("}text")
            for text in each.itertext()
        }
    for name in (
        "relu[half]",
        ":smile:",
        "$x$ and $y$",
        "\\x1b[31mred",
        "</td><script>",
        "_hidden",
    ):
        assert name in texts


def test_notebooks(result: Result, store: Path) -> None:
    for each in read(store):
        html = each._repr_html_()
        assert is_safe(html)
        assert "<script" not in html
        assert len(html) < 2_000_000


def test_csv(written: dict[str, Path], result: Result) -> None:
    text = written["csv"].read_bytes().decode()
    assert is_safe(text)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    found = [row["variant"] for row in rows[::2]]
    assert not any(name.startswith(("=", "+", "-", "@")) for name in (*found, *rows[0]))
    for shown, name in zip(found, NAMES, strict=True):
        if len(name) > 131_000:
            continue
        assert shown == ("'" if name.startswith(tuple("=+-@'")) else "") + visible(name)
    assert rows[0][spreadsheet(METRIC)] == f"{result.cells[0].value.estimate}"
    assert len(set(found)) == len(NAMES)


def test_latex(written: dict[str, Path]) -> None:
    text = written["latex"].read_text("utf-8")
    assert is_safe(text)
    assert max(map(len, text.splitlines())) < 500 * len(NAMES)
    for line in text.splitlines():
        if line.startswith("    {}"):
            bare = re.sub(r"\\\\$|\\text\w+\{\}|\\[&%$#_{}]|\$-\$", "", line)
            cells = bare.split(" & ")
            assert not re.search(r"[\\%$#_~^&|<>`']", "".join(cells))
            assert bare.count("{") == bare.count("}")
    tables = re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL)
    for table in tables:
        lines = [line for line in table.splitlines() if line.startswith("    {}")]
        assert len({line.count(" & ") for line in lines}) == 1


def test_markdown(written: dict[str, Path]) -> None:
    text = written["markdown"].read_text("utf-8")
    assert is_safe(text)
    tables = tables_of(text)
    assert len(tables) == 3
    for table in tables:
        assert len({len(row) for row in table}) == 1
    assert [row[0] for row in tables[-1][1:]] == [label(name) for name in NAMES]
    assert not re.search(r"^\s*([-+*=#>]|\d+[.)])", text, re.MULTILINE)


def test_json_and_yaml(tmp_path: Path) -> None:
    # An experiment file has at most a megabyte.
    names = [name for name in NAMES if len(name) < 1000]
    document: dict[str, object] = {name: {"names": names} for name in names}
    document["long"] = LONG
    assert json.loads(json.dumps(document)) == document
    text = dump(document)
    assert is_safe(text)
    file = tmp_path / "a.yaml"
    file.write_text(text, "utf-8")
    assert read_file(file) == document
