"""Does a notebook show results and running campaigns as they are, and nothing but that?"""

from __future__ import annotations

import io
import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import nbclient
import nbformat
import pandas as pd
import pytest
from rich.console import Console
from torch import nn

from proact import campaign
from proact.campaign.coordinator import CellState
from proact.campaign.notebook_view import NotebookView, is_in_notebook
from proact.campaign.progress import Line, Standing, Watch, view_for
from proact.campaign.terminal_view import TerminalView
from proact.data import Data
from proact.faults import ExactFlips
from proact.report.notebook import progress_html, result_html
from proact.report.units import MetricUnits
from proact.results.cells import CellResult
from proact.results.interval_set import Ranges
from proact.results.statistics import Interval
from proact.results.store import CellKey

SETTING = """
import signal
import torch
from proact import campaign, data, models
from proact.campaign import notebook_view, progress
from proact.faults import BitFlip

torch.set_num_threads(1)
progress._REFRESH_SECONDS = 0.0  # everything that is stored is shown
digits = data.load("digits")
torch.manual_seed(0)
names = ("relu", "<script>alert(1)</script>")
variants = {name: models.create("small-cnn", in_channels=1) for name in names}
faults = [BitFlip(ber) for ber in (1e-5, 1e-4, 1e-3)]
options = {"images_per_trial": 16, "executor": 1, "store": STORE}
"""
RUN = "result = campaign.run(variants, digits, faults, trials=30, **options)\nresult"
PLOT = "result.plot()"
NUMBERS = "print(result.to_pandas().to_json(double_precision=15))"
INTERRUPTED = """
show = notebook_view.NotebookView.show

def show_and_interrupt(view, standing):
    show(view, standing)
    if standing.done > 200:
        signal.raise_signal(signal.SIGINT)

notebook_view.NotebookView.show = show_and_interrupt
try:
    campaign.run(variants, digits, faults, trials=100, **options)
finally:
    notebook_view.NotebookView.show = show
"""
AGAIN = "campaign.run(variants, digits, faults, trials=100, **options).table() and None"
QUIET = (
    "campaign.run(variants, digits, faults, trials=101, progress=False, **options).cells and None"
)


CELL = CellResult(
    "relu", "BitFlip(1e-05)", 1e-5, "top-1", Interval(0.5, 0.25, 0.75), None, 0.875, 10, 0, 3.5, 0.0
)


class Recorder(nbclient.NotebookClient):
    """Keeps what arrived while cells ran; a cell's outputs hold only what was left in the end."""

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        # `python3` is the kernel that ipykernel puts beside this very interpreter.
        super().__init__(notebook, kernel_name="python3", timeout=120)
        self.shown: dict[int, list[tuple[str, dict[str, str]]]] = {}

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            said = (msg["msg_type"], msg["content"]["data"])
            self.shown.setdefault(cell_index, []).append(said)
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """The notebook above, run by a kernel of its own."""
    store = tmp_path_factory.mktemp("notebook") / "rows.sqlite"
    sources = [SETTING.replace("STORE", repr(str(store))), RUN, PLOT, NUMBERS, INTERRUPTED, AGAIN]
    cells = [nbformat.v4.new_code_cell(source) for source in [*sources, QUIET]]
    cells[4].metadata["tags"] = ["raises-exception"]
    recorder = Recorder(nbformat.v4.new_notebook(cells=cells))
    recorder.execute()
    return recorder


def outputs(recorder: Recorder, cell: int) -> list[Any]:
    return list(recorder.nb.cells[cell].outputs)


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<page>{html}</page>")


def rows_of(html: str) -> list[list[str]]:
    """What stands in the rows of the first table's body, one list of texts a row."""
    return [
        ["".join(cell.itertext()).strip() for cell in row]
        for row in parsed(html).findall(".//tbody/tr")
    ]


def bars(html: str) -> list[float]:
    """How long they are, in percent."""
    return [float(width) for width in re.findall(r'style="width: ([\d.]+)%"', html)]


def test_a_result_shows_its_table_and_figure(executed: Recorder) -> None:
    frame = pd.read_json(io.StringIO(outputs(executed, 3)[0].text))
    html = outputs(executed, 1)[-1].data["text/html"]
    assert outputs(executed, 1)[-1].output_type == "execute_result"
    rows = rows_of(html)
    assert len(rows) == len(frame) == 6
    for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
        if len(row) == 8:  # the first of a variant
            assert row.pop(0) == f"{expected.variant}{100 * expected.clean:.1f} without faults"
        assert row == [
            expected.fault,
            f"{expected.ber:g}",
            f"{100 * expected.accuracy:.1f}",
            f"{100 * expected.low:.1f} to {100 * expected.high:.1f}",
            f"{expected.flips:,.1f}",
            str(expected.trials),
            str(expected.failed),
        ]
    assert len(parsed(html).findall(".//{http://www.w3.org/2000/svg}svg")) == 1
    assert "bit error rate" in html


def test_a_figure_shows_itself_without_magic(executed: Recorder) -> None:
    (shown,) = outputs(executed, 2)
    assert "image/png" in shown.data
    assert 500 < shown.metadata["image/png"]["width"] < 1000


def test_a_running_campaign_is_shown_while_it_runs(executed: Recorder) -> None:
    first, *updates = executed.shown[1]
    assert first[0] == "display_data"
    assert {kind for kind, _ in updates} == {"update_display_data"}
    told = [data["text/plain"] for _, data in [first, *updates]]
    assert told[0] == "Starting."
    done = [int(said.split()[1]) for said in told[1:-1]]
    assert done == sorted(done)
    assert done[-1] == 180
    assert told[-1] == "Finished: 180 trials."
    # What stays is the last.
    (left,) = [o for o in outputs(executed, 1) if o.output_type == "display_data"]
    assert left.data["text/html"] == updates[-1][1]["text/html"]
    assert "Finished: 180 trials." in left.data["text/html"]


def test_an_interrupt_says_how_to_go_on(executed: Recorder) -> None:
    last = executed.shown[4][-1][1]
    kept = re.fullmatch(
        r"Interrupted: (\d+) trials are kept in .*rows\.sqlite; run the same again to go on from "
        r"there\.",
        last["text/plain"],
    )
    assert kept is not None
    assert 200 < int(kept[1]) < 600
    assert "Interrupted" in last["text/html"]
    assert outputs(executed, 4)[-1].ename == "KeyboardInterrupt"
    # And so it does.
    told = [data["text/plain"] for _, data in executed.shown[5]]
    assert all(int(said.split()[1]) >= int(kept[1]) for said in told[1:])
    assert told[-1] == "Finished: 600 trials."


def test_quiet_where_it_is_asked_for(executed: Recorder) -> None:
    assert 6 not in executed.shown
    assert outputs(executed, 6) == []


def test_what_is_shown_escapes_names_and_needs_nothing_else(executed: Recorder) -> None:
    pages = [data["text/html"] for said in executed.shown.values() for _, data in said]
    for html in [*pages, outputs(executed, 1)[-1].data["text/html"]]:
        tags = {element.tag.rpartition("}")[2] for element in parsed(html).iter()}
        assert not tags & {"script", "link", "img", "iframe", "image", "object"}
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert set(re.findall(r"https?://[^\"]+", html)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
        assert not re.search(r"@import|url\((?!#)", html)


def test_the_style_holds_for_nothing_else() -> None:
    html = result_html([CELL, replace(CELL, ber=1e-4)], 0.95, MetricUnits("top-1"))
    assert "<svg" in html
    (style,) = parsed(html).findall(".//{*}style")
    text = re.sub(r"/\*.*?\*/", "", style.text or "", flags=re.DOTALL)
    selectors = [part.strip() for part in re.findall(r"([^{}]+)\{", text)]
    assert len(selectors) > 10
    for selector in selectors:
        if not selector.startswith("@media"):
            assert all(part.strip().startswith(".proact-view") for part in selector.split(","))


def test_cells_without_trials_are_not_zero() -> None:
    lost = replace(CELL, value=Interval(0.0, 0.0, 1.0), trials=0, failed=3, flips=0.0)
    tried, missing = rows_of(result_html([CELL, lost], 0.95, MetricUnits("top-1")))
    assert tried[3:] == ["50.0", "25.0 to 75.0", "3.5", "10", "0"]
    assert missing[2:] == ["no trials", "0.0 to 100.0", "\u2013", "\u2013", "3"]
    assert "what is known without" in result_html([lost], 0.95, MetricUnits("top-1"))
    assert "what is known without" not in result_html([CELL], 0.95, MetricUnits("top-1"))


def test_values_that_are_no_shares_are_shown_as_they_are() -> None:
    loss = replace(CELL, metric="loss", value=Interval(2.5, 2.25, 3.0), clean=0.125)
    html = result_html([loss], 0.9, MetricUnits("loss", is_share=False, is_better_higher=False))
    assert rows_of(html)[0][3:5] == ["2.5", "2.25 to 3"]
    headings = [heading.text for heading in parsed(html).findall(".//thead/tr/th")]
    assert headings[3:5] == ["cross-entropy nats", "90 % interval"]


@pytest.mark.parametrize(("bers", "figures"), [((1e-5,), 0), ((1e-5, 0.0), 0), ((1e-5, 1e-4), 1)])
def test_a_figure_needs_two_rates(bers: tuple[float, ...], figures: int) -> None:
    html = result_html([replace(CELL, ber=ber) for ber in bers], 0.95, MetricUnits("top-1"))
    assert html.count("<svg") == figures


def test_a_figure_has_the_colours_of_the_page() -> None:
    names = ("fill: #000000", "<b>&amp;</b>")
    cells = [replace(CELL, variant=name, ber=ber) for name in names for ber in (1e-5, 1e-4)]
    html = result_html(cells, 0.95, MetricUnits("top-1"))
    figure = html[html.index("<svg") :]
    assert not re.search(r"<[^>]*#(000000|ffffff)", figure)
    assert {"currentColor", "var(--proact-paper)"} <= set(re.findall(r": (\w[^;\"]*)", figure))
    texts = ["".join(text.itertext()) for text in parsed(html).findall(".//{*}text")]
    assert set(names) <= set(texts)


def test_a_sweep_shows_its_strata(trained_cnn: nn.Module, digits: Data) -> None:
    sweep = campaign.per_layer(trained_cnn, digits, ExactFlips(20), trials=200, executor=1)
    html = sweep._repr_html_()
    frame = sweep.to_pandas().sort_values("loss", ascending=False)
    cells = {cell.fault: cell for cell in sweep.result.cells}
    assert len(cells) == len(frame)
    for row, (_, expected) in zip(rows_of(html), frame.iterrows(), strict=True):
        assert row == [
            expected.layer,
            f"{100 * expected.share:.2f}",
            f"{100 * expected.loss:.2f}",
            "",
            f"{100 * expected.loss_low:.2f} to {100 * expected.loss_high:.2f}",
            "20.0",
            str(expected.trials),
            "0",
        ]
    losses = [loss for loss in frame["loss"] if loss > 0]
    assert bars(html) == pytest.approx([100 * loss / losses[0] for loss in losses], abs=0.05)
    assert f"all together: {100 * sweep.whole.estimate:.2f}" in html


class Shown:
    """Stands in for IPython's display: what was shown, and how often it was rewritten."""

    def __init__(self) -> None:
        self.first: list[dict[str, str]] = []
        self.updates: list[dict[str, str]] = []

    def display(self, data: dict[str, str], raw: bool, display_id: bool) -> Shown:
        assert raw
        assert display_id
        self.first.append(data)
        return self

    def update(self, data: dict[str, str], raw: bool) -> None:
        assert raw
        self.updates.append(data)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A kernel, as far as this process can tell."""
    recorder = Shown()
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.display = recorder.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return recorder


def standing() -> Standing:
    half = CellState(0, 0, CellKey(1, 1), Ranges([(0, 50)]), target=60, seconds=2.0, failed=1)
    done = CellState(1, 0, CellKey(2, 1), Ranges([(0, 70)]), target=60, finished=True)
    untouched = CellState(2, 0, CellKey(3, 1), Ranges(), finished=True)
    lines = [
        Line("a & b", "BitFlip(1e-06)", half, 0.91, 0.02, 100),
        Line("relu", "BitFlip(1e-06)", done, 0.95, 0.01, 60),
        Line("known", "BitFlip(0)", untouched),
    ]
    return Standing(lines, 2, 100.0)


def test_a_line_a_cell_with_its_bar() -> None:
    html = progress_html(standing(), "running", "Running.")
    assert [row[:2] + row[3:] for row in rows_of(html)] == [
        ["a & b", "BitFlip(1e-06)", "50 of 100", "91.0 ± 2.0", "50 s"],
        ["relu", "BitFlip(1e-06)", "60 of 60", "95.0 ± 1.0", "done"],
        ["known", "BitFlip(0)", "0 of 0", "", "done"],
    ]
    assert bars(html) == [50.0, 100.0, 100.0]


def test_many_cells_are_not_all_shown() -> None:
    few = standing()
    many = replace(few, lines=[*few.lines] * 50)
    html = progress_html(many, "running", "Running.")
    assert len(rows_of(html)) == 40
    assert "and 110 more cells" in html


def test_it_is_rewritten_twice_a_second_at_most(shown: Shown) -> None:
    now = 100.0
    with Watch(standing(), None, NotebookView(None), clock=lambda: now) as watch:
        assert len(shown.first) == 1
        for _ in range(1000):
            now += 0.01
            watch.update()
        assert 15 < len(shown.updates) <= 20
    assert shown.first[0]["text/plain"] == (
        "Running: 110 of 160 trials, about 50 s left; 1 trials could not be run."
    )
    assert shown.updates[-1]["text/plain"] == "Finished: 110 trials; 1 could not be run."
    assert len(shown.first) == 1


@pytest.mark.parametrize(
    ("error", "store", "words"),
    [
        (
            KeyboardInterrupt(),
            Path("runs/<x>.sqlite"),
            "Interrupted: 120 trials are kept in runs/<x>.sqlite; run the same again to go on from "
            "there.",
        ),
        (
            KeyboardInterrupt(),
            None,
            "Interrupted: the rows were in memory and are gone; store=... would have kept them.",
        ),
        (
            RuntimeError("broken"),
            Path("x.sqlite"),
            "Stopped by RuntimeError: 120 trials are kept in x.sqlite; run the same again to go on "
            "from there.",
        ),
    ],
)
def test_the_last_update_says_what_became_of_it(
    error: BaseException, store: Path | None, words: str, shown: Shown
) -> None:
    with pytest.raises(type(error)), Watch(standing(), None, NotebookView(store)):
        raise error
    assert shown.updates[-1]["text/plain"] == words
    text = "".join(parsed(shown.updates[-1]["text/html"]).itertext())
    assert words in text


def test_the_rounds_of_a_sweep_share_one_output(
    trained_cnn: nn.Module, digits: Data, shown: Shown
) -> None:
    sweep = campaign.per_layer(trained_cnn, digits, ExactFlips(20), trials=400, executor=1)
    assert len(shown.first) == 1
    finished = [data["text/plain"] for data in shown.updates if "Finished" in data["text/plain"]]
    assert len(finished) > 1
    trials = sum(stratum.trials for stratum in sweep.strata)
    assert finished[-1] == f"Finished: {trials:,} trials."


def test_who_is_shown_what(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(view_for(None, None), NotebookView)
    assert isinstance(view_for(True, None), NotebookView)
    assert view_for(False, None) is None
    assert view_for(print, None) is None
    # IPython on a terminal has a shell without a kernel.
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", SimpleNamespace)
    assert isinstance(view_for(True, None), TerminalView)
    assert view_for(None, None) is None
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert not is_in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not is_in_notebook()
    assert "IPython" not in sys.modules


def test_a_terminal_shows_a_table_that_goes_away() -> None:
    screen = io.StringIO()
    view = TerminalView(Console(file=screen, force_terminal=True, width=100))
    assert view.is_on_terminal
    for _ in range(2):  # as a sweep does
        with Watch(standing(), None, view, clock=itertools.count().__next__) as watch:
            watch.update()
    assert "91.0 ± 2.0" in screen.getvalue()
    # The cursor goes back over the table's lines, and clears them.
    assert screen.getvalue().endswith("\x1b[1A\x1b[2K")
