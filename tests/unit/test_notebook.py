"""Do notebooks and terminals show results and running campaigns as they are, and nothing else?"""

from __future__ import annotations

import importlib.util
import io
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
from proact.campaign import CampaignProgress
from proact.campaign.progress import callback_for
from proact.data import Data
from proact.faults import ExactFlips
from proact.report.notebook import campaign_html
from proact.report.progress import CampaignBars, campaign_bars
from proact.results import CellResult, CellSpec, CellState, Interval, Result
from proact.results.interval_set import IntervalSet
from proact.results.statistics import ProgressEstimate

SETTING = """
import signal
import torch
from proact import campaign, data, models
from proact.faults import BitFlip

torch.set_num_threads(1)
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
from proact.report.progress import CampaignBars

update = CampaignBars._update

def update_and_interrupt(view, bars, progress):
    update(view, bars, progress)
    if progress.is_running and progress.done > 200:
        signal.raise_signal(signal.SIGINT)

CampaignBars._update = update_and_interrupt
try:
    campaign.run(variants, digits, faults, trials=100, **options)
finally:
    CampaignBars._update = update
"""
AGAIN = "campaign.run(variants, digits, faults, trials=100, **options).table() and None"
QUIET = (
    "campaign.run(variants, digits, faults, trials=101, progress=False, **options).cells and None"
)


CELL = CellResult(
    "relu",
    "BitFlip(1e-05)",
    1e-5,
    "top-1",
    Interval(0.5, 0.25, 0.75),
    None,
    0.875,
    10,
    0,
    3.5,
    0.0,
    0.0,
)


def result_of(
    cells: list[CellResult],
    confidence: float = 0.95,
    highest: float = 1.0,
    is_better_higher: bool = True,
) -> Result:
    """As much of a campaign's result as a notebook shows."""
    spec = spec_of(cells[0].metric, highest, is_better_higher)
    spec.cells = [
        SimpleNamespace(variant=cell.variant, fault=cell.fault, family=cell.fault.partition("(")[0])
        for cell in cells
    ]
    result = SimpleNamespace(cells=cells, confidence=confidence, spec=spec)
    return result  # type: ignore[return-value]


def spec_of(metric: str = "top-1", highest: float = 1.0, is_better_higher: bool = True) -> Any:
    """As much of a run's specification as units need."""
    return SimpleNamespace(
        metric=metric, lowest=0.0, highest=highest, is_better_higher=is_better_higher
    )


class Recorder(nbclient.NotebookClient):
    """Runs a notebook in a kernel, and keeps everything that cells displayed while they ran."""

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        # `python3` is the kernel that ipykernel puts beside this very interpreter.
        super().__init__(notebook, kernel_name="python3", timeout=120)
        self.shown: dict[int, list[tuple[str, dict[str, Any]]]] = {}

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            displayed = (msg["msg_type"], msg["content"]["data"])
            self.shown.setdefault(cell_index, []).append(displayed)
        return super().process_message(msg, cell, cell_index)

    def bars(self, cell: int) -> list[dict[str, str]]:
        """The frames that the widget of a cell held, one after the other."""
        return [
            data
            for _, data in self.shown.get(cell, [])
            if "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in data.get("text/plain", "")
        ]

    def last_frame(self, cell: int) -> str:
        """What the widget holds at the end: the bars as text."""
        (shown,) = [o for o in outputs(self, cell) if WIDGET in o.get("data", {})]
        state = self.widget_state[shown.data[WIDGET]["model_id"]]
        return "".join(output["data"]["text/plain"] for output in state["outputs"])

    def last_line(self, cell: int) -> str:
        """The sentence below the bars."""
        lines = [
            output.data["text/plain"]
            for output in outputs(self, cell)
            if output.output_type == "display_data" and set(output.data) == {"text/plain"}
        ]
        (line,) = lines
        return str(line)


WIDGET = "application/vnd.jupyter.widget-view+json"


def executed_by(store: Path, *sources: str) -> Recorder:
    """A notebook of these cells, run by a kernel of its own; a cell may end with an error."""
    setting = SETTING.replace("STORE", repr(str(store)))
    cells = [nbformat.v4.new_code_cell(source) for source in (setting, *sources)]
    for cell in cells:
        if cell.source == INTERRUPTED:
            cell.metadata["tags"] = ["raises-exception"]
    recorder = Recorder(nbformat.v4.new_notebook(cells=cells))
    recorder.execute()
    return recorder


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """The notebook above."""
    store = tmp_path_factory.mktemp("notebook") / "rows.sqlite"
    return executed_by(store, RUN, PLOT, NUMBERS, INTERRUPTED, AGAIN, QUIET)


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
    """The lengths of the bars, in percent."""
    return [float(width) for width in re.findall(r'style="width: ([\d.]+)%"', html)]


def test_a_result_shows_its_table_and_figure(executed: Recorder) -> None:
    frame = pd.read_json(io.StringIO(outputs(executed, 3)[0].text))
    html = outputs(executed, 1)[-1].data["text/html"]
    assert outputs(executed, 1)[-1].output_type == "execute_result"
    rows = rows_of(html)
    assert len(rows) == len(frame) == 6
    for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
        if len(row) == 8:  # the first of a variant
            assert row.pop(0) == f"{expected.variant}{100 * expected.clean:.1f} clean"
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


def counts(frame: str) -> list[tuple[int, int]]:
    """(done, total) of each bar, that of all trials first."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", frame)
    return [(int(done), int(total)) for done, total in re.findall(r" (\d+)/(\d+)\b", plain)]


def test_a_running_campaign_shows_bars_in_ipywidgets(executed: Recorder) -> None:
    first = executed.shown[1][0]
    assert first[0] == "display_data"
    assert WIDGET in first[1]
    assert len(executed.bars(1)) >= 2
    assert counts(executed.last_frame(1)) == [(180, 180)] + [(30, 30)] * 6
    done = [
        counts(data["text/plain"])[0][0]
        for data in executed.bars(1)[1:]
        if counts(data["text/plain"])
    ]
    assert done == sorted(done)
    assert done[-1] == 180
    # One widget, and one sentence that stays below it.
    assert len([1 for _, data in executed.shown[1] if WIDGET in data]) == 1
    assert re.fullmatch(r"Finished: 180 trials, kept in .*rows\.sqlite\.", executed.last_line(1))
    assert not [output for output in outputs(executed, 1) if output.output_type == "stream"]


def test_an_interrupt_says_how_to_continue(executed: Recorder) -> None:
    kept = re.fullmatch(
        r"Interrupted: (\d+) trials are kept in .*rows\.sqlite; the same call continues from "
        r"there\.",
        executed.last_line(4),
    )
    assert kept is not None
    assert 200 < int(kept[1]) < 600
    assert outputs(executed, 4)[-1].ename == "KeyboardInterrupt"
    # The same call does continue.
    frames = [counts(data["text/plain"]) for data in executed.bars(5)]
    done = [frame[0][0] for frame in frames if frame]
    assert done
    assert all(each >= int(kept[1]) for each in done)
    assert executed.last_line(5).startswith("Finished: 600 trials")


def test_progress_false_shows_nothing(executed: Recorder) -> None:
    assert 6 not in executed.shown
    assert outputs(executed, 6) == []


@pytest.mark.long
def test_without_ipywidgets_there_is_no_bar_and_no_warning(tmp_path: Path) -> None:
    missing = (
        "import importlib.util, sys\n"
        "sys.modules['ipywidgets'] = None\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'ipywidgets' else find(n, *a)"
    )
    run = "result = campaign.run(variants, digits, faults, trials=3, **options); len(result.cells)"
    recorder = executed_by(tmp_path / "rows.sqlite", missing, run)
    (only,) = outputs(recorder, 2)
    assert only.data["text/plain"] == "6"
    assert recorder.shown == {}


def test_what_is_shown_escapes_names_and_needs_nothing_else(executed: Recorder) -> None:
    frames = [data["text/html"] for cell in (1, 4, 5) for data in executed.bars(cell)]
    frames = [html for html in frames if "script" in html]
    assert frames
    for html in [*frames, outputs(executed, 1)[-1].data["text/html"]]:
        tags = {element.tag.rpartition("}")[2] for element in parsed(html).iter()}
        assert not tags & {"script", "link", "img", "iframe", "image", "object"}
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert set(re.findall(r"https?://[^\"]+", html)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
        assert not re.search(r"@import|url\((?!#)", html)


def test_the_style_holds_for_nothing_else() -> None:
    html = campaign_html(result_of([CELL, replace(CELL, ber=1e-4)]))
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
    tried, missing = rows_of(campaign_html(result_of([CELL, lost])))
    assert tried[3:] == ["50.0", "25.0 to 75.0", "3.5", "10", "0"]
    assert missing[2:] == ["no trials", "0.0 to 100.0", "\u2013", "\u2013", "3"]
    assert "known in advance" in campaign_html(result_of([lost]))
    assert "known in advance" not in campaign_html(result_of([CELL]))


def test_values_that_are_no_shares_are_shown_as_they_are() -> None:
    loss = replace(CELL, metric="loss", value=Interval(2.5, 2.25, 3.0), clean=0.125)
    html = campaign_html(result_of([loss], 0.9, highest=20.0, is_better_higher=False))
    assert rows_of(html)[0][3:5] == ["2.5", "2.25 to 3"]
    headings = [heading.text for heading in parsed(html).findall(".//thead/tr/th")]
    assert headings[3:5] == ["cross-entropy nats", "90 % interval"]


@pytest.mark.parametrize(("bers", "figures"), [((1e-5,), 0), ((1e-5, 0.0), 0), ((1e-5, 1e-4), 1)])
def test_a_figure_needs_two_rates(bers: tuple[float, ...], figures: int) -> None:
    html = campaign_html(result_of([replace(CELL, ber=ber) for ber in bers]))
    assert html.count("<svg") == figures


def test_a_number_of_flips_is_one_level_whatever_the_variants_store() -> None:
    """The rates of one `ExactFlips` differ between variants with different numbers of bits."""

    def of(variant: str, flips: int, ber: float) -> CellResult:
        return replace(CELL, variant=variant, fault=f"ExactFlips({flips})", ber=ber)

    one = [of("relu", 1, 1e-5), of("proact", 1, 2e-5)]
    assert "<svg" not in campaign_html(result_of(one))
    html = campaign_html(result_of([*one, of("relu", 3, 3e-5), of("proact", 3, 6e-5)]))
    assert 'aria-label="top-1 accuracy over the number of flips"' in html


def test_a_figure_has_the_colours_of_the_page() -> None:
    names = ("fill: #000000", "<b>&amp;</b>")
    cells = [replace(CELL, variant=name, ber=ber) for name in names for ber in (1e-5, 1e-4)]
    html = campaign_html(result_of(cells))
    figure = html[html.index("<svg") :]
    assert not re.search(r"<[^>]*#(000000|ffffff)", figure)
    assert {"currentColor", "var(--proact-paper)"} <= set(re.findall(r": (\w[^;\"]*)", figure))
    texts = ["".join(text.itertext()) for text in parsed(html).findall(".//{*}text")]
    assert set(names) <= set(texts)


def test_a_sweep_shows_its_strata(trained_cnn: nn.Module, digits: Data) -> None:
    sweep = campaign.per_layer(trained_cnn, digits, ExactFlips(20), trials=200, executor=1)
    html = sweep._repr_html_()
    frame = sweep.to_pandas().sort_values("loss", ascending=False)
    cells = {cell.fault: cell for cell in sweep.cells}
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
    assert f"whole model: {100 * sweep.whole.estimate:.2f}" in html


class Shown:
    """Stands in for IPython's display and for the output widget of ipywidgets: what was shown, and
    how often it was rewritten."""

    def __init__(self) -> None:
        self.widgets = 0
        self.redrawn = 0
        self.lines: list[str] = []
        self.line_updates: list[str] = []
        self.frames: list[dict[str, str]] = []

    def display(self, data: Any, raw: bool = False, display_id: bool = False, **_: Any) -> Shown:
        if isinstance(data, Widget):
            self.widgets += 1
        elif display_id:
            assert raw
            self.lines.append(data["text/plain"])
        else:  # rich's own
            self.frames.append(data._repr_mimebundle_([], []))
        return self

    def update(self, data: dict[str, str], raw: bool) -> None:
        assert raw
        self.line_updates.append(data["text/plain"])


class Widget:
    """As much of ipywidgets.Output as rich uses."""

    shown: Shown

    def __enter__(self) -> None:
        self.shown.redrawn += 1

    def __exit__(self, *_: object) -> None:
        pass

    def clear_output(self, wait: bool) -> None:
        assert wait


class ZMQInteractiveShell:
    """The shell of a kernel; rich knows it by its name."""

    kernel = object()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A kernel with ipywidgets, as far as this process can see."""
    recorder = Shown()
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    display.display = recorder.display  # type: ignore[attr-defined]
    widgets = ModuleType("ipywidgets")
    Widget.shown = recorder
    widgets.Output = Widget  # type: ignore[attr-defined]
    widgets.__spec__ = importlib.util.spec_from_loader("ipywidgets", None)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    # rich asks for the shell by the name that only IPython's own builtins have.
    monkeypatch.setattr("builtins.get_ipython", ZMQInteractiveShell, raising=False)
    return recorder


def progress_of(**changes: Any) -> CampaignProgress:
    """Three cells: one is half done, one has more trials than it needs, one needs none."""

    def state(variant: str, fault: str, trials: int, **more: Any) -> CellState:
        spec = CellSpec(variant, fault, "BitFlip", (1, 1), 1e-6, 1000, None)
        return CellState(spec, IntervalSet([(0, trials)]), **more)

    cells = [
        state("a & b", "BitFlip(1e-06)", 50, target=60, seconds=2.0, failed=1,
              estimate=ProgressEstimate(0.91, 0.02, 100)),
        state("relu", "BitFlip(1e-06)", 70, target=60, is_finished=True,
              estimate=ProgressEstimate(0.95, 0.01, 60)),
        state("known", "BitFlip(0)", 0, is_finished=True),
    ]  # fmt: skip
    return replace(CampaignProgress(cells, 2, spec_of()), **changes)


def screen_of(*announced: CampaignProgress, height: int = 60) -> str:
    """What a terminal receives."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, height=height, color_system=None)
    bars = CampaignBars(console)
    for progress in announced:
        bars(progress)
    return screen.getvalue()


def lines_of(screen: str) -> list[str]:
    """All lines that a terminal received; those of the last frame come last."""
    lines = re.split(r"(?:\x1b\[\d?[A-Z]|\x1b\[\?\d+[a-z]|\r|\n)+", screen)
    return [line.rstrip() for line in lines if line.strip()]


def test_a_bar_per_cell_on_a_terminal() -> None:
    screen = screen_of(progress_of(), progress_of(is_running=False))
    *_, total, half, done, known = lines_of(screen)
    assert total.startswith("3 cells, all trials")
    assert half.startswith("a & b BitFlip(1e-06)")
    assert done.startswith("relu BitFlip(1e-06)")
    assert known.startswith("known BitFlip(0)")
    assert [re.findall(r"\d+/\d+", line)[0] for line in (total, half, done, known)] == [
        "110/160", "50/100", "60/60", "0/0"
    ]  # fmt: skip
    assert [re.findall(r"\d:\d\d:\d\d", line) for line in (total, half, done, known)] == [
        ["0:00:50"], ["0:00:50"], ["0:00:00"], ["0:00:00"]
    ]  # fmt: skip
    assert total.endswith("1 failed")
    assert half.endswith("91.0 ± 2.0")
    assert done.endswith("95.0 ± 1.0")
    lengths = [len(re.findall("\N{BOX DRAWINGS HEAVY HORIZONTAL}", line)) for line in (done, known)]
    assert lengths == [40, 40]


def test_the_number_of_cells_is_shown_where_not_all_have_bars() -> None:
    cells = [replace(cell) for _ in range(50) for cell in progress_of().cells]
    many = progress_of(cells=cells)
    lines = lines_of(screen_of(many, replace(many, is_running=False)))
    bars = [line for line in lines[-13:] if re.search(r"\d/\d", line)]
    assert len(bars) == 13
    assert bars[0].startswith("150 cells, all trials")
    assert all(line.startswith("a & b") for line in bars[1:]), "unfinished ones first"


def test_a_terminal_shows_bars_that_go_away() -> None:
    round_of_a_sweep = [progress_of(), progress_of(), progress_of(is_running=False)]
    screen = screen_of(*round_of_a_sweep, *round_of_a_sweep)
    assert "91.0 ± 2.0" in screen
    # The cursor goes back over the lines of the bars, and clears them.
    assert screen.rstrip("\r").endswith("\x1b[1A\x1b[2K" * 4)


def test_bars_are_redrawn_by_the_clock_and_not_by_every_unit(shown: Shown) -> None:
    bars = campaign_bars(always=False)
    assert bars is not None
    for _ in range(1000):
        bars(progress_of())
    # The first frame, one when each of the bars is added, and twice a second.
    redrawn = shown.redrawn
    assert bars._progress is not None
    assert bars._progress.live.refresh_per_second == 2.0
    assert redrawn < 20
    bars(progress_of(is_running=False))
    assert shown.widgets == 1
    assert shown.redrawn > redrawn, "the last frame is complete"
    assert shown.lines == ["Finished: 110 trials; 1 failed."]
    assert shown.line_updates == []


@pytest.mark.parametrize(
    ("error", "store", "words"),
    [
        (
            KeyboardInterrupt(),
            Path("runs/<x>.sqlite"),
            "Interrupted: 120 trials are kept in runs/<x>.sqlite; the same call continues from "
            "there.",
        ),
        (
            KeyboardInterrupt(),
            None,
            "Interrupted: the rows were in memory and are lost; store=... keeps them.",
        ),
        (
            RuntimeError("broken"),
            Path("x.sqlite"),
            "Stopped by RuntimeError: 120 trials are kept in x.sqlite; the same call continues "
            "from there.",
        ),
        (None, Path("x.sqlite"), "Finished: 110 trials; 1 failed, kept in x.sqlite."),
    ],
)
def test_the_last_line_says_what_is_kept(
    error: BaseException | None, store: Path | None, words: str, shown: Shown
) -> None:
    bars = campaign_bars(always=False)
    assert bars is not None
    bars(progress_of(store=store))
    assert shown.lines == []
    bars(progress_of(store=store, is_running=False, error=error))
    assert shown.lines == [words]


def test_the_rounds_of_a_sweep_share_one_output(
    trained_cnn: nn.Module, digits: Data, shown: Shown
) -> None:
    sweep = campaign.per_layer(trained_cnn, digits, ExactFlips(20), trials=400, executor=1)
    assert shown.widgets == 1
    trials = sum(stratum.trials for stratum in sweep.strata)
    assert shown.lines == [f"Finished: {trials:,} trials."]


def test_where_bars_are_shown(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    for progress in (None, True):
        bars = callback_for(progress)
        assert isinstance(bars, CampaignBars)
        assert bars._console.is_jupyter
    assert callback_for(False) is None
    assert callback_for(print) is print
    # IPython on a terminal has a shell without a kernel.
    monkeypatch.delattr("builtins.get_ipython")
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", SimpleNamespace)
    bars = callback_for(True)
    assert isinstance(bars, CampaignBars)
    assert not bars._console.is_jupyter
    assert bars._console.file is sys.stderr
    assert callback_for(None) is None
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert campaign_bars(always=False) is None
    monkeypatch.delitem(sys.modules, "IPython")
    assert campaign_bars(always=False) is None
    assert "IPython" not in sys.modules


def test_an_interrupt_on_a_terminal_says_what_is_kept(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    update = CampaignBars._update

    def update_and_interrupt(view: CampaignBars, bars: Any, progress: CampaignProgress) -> None:
        update(view, bars, progress)
        if progress.is_running and progress.done >= 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(CampaignBars, "_update", update_and_interrupt)
    store = tmp_path / "rows.sqlite"
    with pytest.raises(KeyboardInterrupt):
        campaign.run(
            {"m": trained_cnn}, digits, [ExactFlips(1)], trials=5000, store=store, executor=1,
            images_per_trial=16, progress=True,
        )  # fmt: skip
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    kept = re.fullmatch(
        rf"Interrupted: (\d+) trials are kept in {re.escape(str(store))}; the same call continues "
        r"from there\.",
        last,
    )
    assert kept is not None
    assert 8 <= int(kept[1]) < 5000
