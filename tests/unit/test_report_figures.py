"""Do figures show what there is, in colours and with names that can be told apart?"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from built_cells import LINE, cell
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pages import HOSTILE, OPTIONS, Page
from torch import nn

from proact import campaign, report
from proact.data import Data
from proact.faults import BitFlip
from proact.report.fault_axis import BY_FLIPS, BY_RATE, axis_of
from proact.report.plots import NOTHING, accuracy_figure, gain_figure, result_figure
from proact.report.plots_parts import bits_figure, layers_figure
from proact.report.plots_trials import bin_edges, trials_figure
from proact.report.style import COLOURS, looks, unknown_signs
from proact.report.units import MetricUnits
from proact.results.result import Result
from proact.results.statistics import Interval
from proact.results.stratum import Stratum


def line_of(figure: Figure, variant: str) -> tuple[list[float], list[float]]:
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == variant]
    return [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]  # type: ignore[union-attr]


def test_lines_have_gaps_where_there_are_no_trials() -> None:
    line = [*LINE[:1], replace(LINE[1], trials=0, is_finished=False), *LINE[2:]]
    x, y = line_of(accuracy_figure(line, 0.95), "relu")
    assert x == [1e-6, 1e-5, 1e-4, 1e-3]
    assert np.isnan(y).tolist() == [False, True, False, False]
    assert (y[0], y[2]) == (90.0, 88.0)
    gains = {"new": {1e-5: Interval(0.1, 0.0, 0.2), 1e-4: NOTHING, 1e-3: Interval(0.2, 0.1, 0.3)}}
    figure = gain_figure(gains, "relu", ["relu", "new"], 0.95, MetricUnits("top-1"))
    assert np.isnan(line_of(figure, "new")[1]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("images", "most"), [(1, 30), (16, 30), (29, 30), (30, 30), (45, 30), (64, 30), (1000, 30)]
)
def test_bins_hold_as_many_values_each(images: int, most: int) -> None:
    """A histogram of a share that takes each of its values once is flat."""
    edges = bin_edges(0.0, 1.0, images)
    counts, _ = np.histogram(np.arange(images + 1) / images, edges)
    assert len(counts) <= most
    assert counts.sum() == images + 1, "none is left out"
    assert len(set(counts[1:])) <= 1, "the lowest may hold fewer"
    assert counts[0] <= counts[-1]


def test_bins_of_metrics_with_any_values() -> None:
    edges = bin_edges(0.0, 20.0, None)
    assert (edges[0], edges[-1], len(edges)) == (0.0, 20.0, 31)


def test_a_result_of_several_kinds_of_faults_has_a_line_for_each() -> None:
    """A point of one kind between two of another would be a curve that nobody measured."""
    stuck = [
        cell(ber, (0.5, 0.4, 0.6), variant=name) for name in ("relu", "new") for ber in (1e-5, 1e-2)
    ]
    stuck = [replace(each, fault=f"StuckAt(1, {each.ber})") for each in stuck]
    cells = [*stuck[:2], *LINE, *stuck[2:], *(replace(each, variant="new") for each in LINE)]
    specs = [
        SimpleNamespace(variant=each.variant, fault=each.fault, family=each.fault.split("(")[0])
        for each in cells
    ]
    spec = SimpleNamespace(
        cells=specs, metric="top-1", lowest=0.0, highest=1.0, is_better_higher=True
    )
    result = SimpleNamespace(
        cells=cells, spec=spec, confidence=0.95, clean={"relu": 0.9, "new": 0.9}
    )
    figure = result_figure(cast(Result, result))
    for variant in ("relu", "new"):
        x, y = line_of(figure, f"{variant}, BitFlip")
        assert x == [each.ber for each in LINE]
        assert y == [100.0 * each.value.estimate for each in LINE]
        assert line_of(figure, f"{variant}, StuckAt") == ([1e-5, 1e-2], [50.0, 50.0])


def test_lines_over_numbers_of_flips() -> None:
    """Variants with different numbers of bits are compared at the same number of flips."""
    cells = [
        replace(cell(n / bits, (0.5, 0.4, 0.6), variant=name), fault=f"ExactFlips({n})")
        for name, bits in (("relu", 1e6), ("new", 2e6))
        for n in (1, 10)
    ]
    specs = [SimpleNamespace(variant=c.variant, fault=c.fault, family="ExactFlips") for c in cells]
    spec = SimpleNamespace(
        cells=specs, metric="top-1", lowest=0.0, highest=1.0, is_better_higher=True
    )
    result = SimpleNamespace(cells=cells, spec=spec, confidence=0.95)
    figure = result_figure(cast(Result, result))
    for variant in ("relu", "new"):
        assert line_of(figure, variant) == ([1.0, 10.0], [50.0, 50.0])
    assert figure.axes[0].get_xlabel() == "number of flips in a trial"


def test_an_axis_shows_values_outside_of_0_to_100() -> None:
    """A range of width 1 or less need not be that of a share."""
    units = MetricUnits.of_range("offset", 5.0, 5.5, True)
    line = [cell(ber, (5.4, 5.3, 5.45), 5.5) for ber in (1e-6, 1e-5)]
    low, high = accuracy_figure(line, 0.95, units).axes[0].get_ylim()
    assert 5.0 < low < 5.3
    assert 5.45 < high < 6.0
    assert not MetricUnits.of_range("correlation", -0.5, 0.5, True).is_share
    assert MetricUnits.of_range("top-1", 0.0, 1.0, True).is_share


def test_cells_that_needed_no_trial_are_marked_by_crosses(tmp_path: Path) -> None:
    decided = replace(LINE[0], ber=1e-9, trials=0)
    figure = accuracy_figure([decided, *LINE], 0.95)
    figure.savefig(tmp_path / "figure.png")
    line, *_ = figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [1e-9, *(each.ber for each in LINE)]
    assert line.get_markevery() == [1, 2, 3, 4], "a cross marks the first"


def test_bits_of_different_words_stand_side_by_side() -> None:
    mean = Interval(0.5, 0.4, 0.6)
    names = [f"int4 {bit}" for bit in range(4)] + [f"bfloat16 {bit}" for bit in range(16)]
    fields = {name: "sign" if name in ("int4 3", "bfloat16 15") else "rest" for name in names}
    parts = [Stratum(name, 0.05, mean, mean, 3) for name in names]
    figure = bits_figure({"a": parts}, fields, ["a"], "loss", MetricUnits("top-1"))
    (axes,) = figure.axes
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == [str(bit) for bit in (*range(3, -1, -1), *range(15, -1, -1))]
    written = [text.get_text() for text in axes.texts]
    assert written == ["sign", "rest", "sign", "rest", "int4", "bfloat16"]


@pytest.mark.parametrize(
    "names",
    [
        ["a"],
        HOSTILE,
        [f"variant {number}" for number in range(8)],
        [f"variant {number}" for number in range(22)],
        ["resilience-aware-proact (channel) + weight-range"] + [f"x{i}" * 100 for i in range(3)],
        [f"{i}" * 150 for i in range(9)],
    ],
    ids=lambda names: f"{len(names)} of {max(map(len, names))}",
)
def test_figures_have_room_for_names(names: list[str]) -> None:
    line = [replace(each, variant=name) for name in names for each in LINE]
    units, mean = MetricUnits("top-1"), Interval(0.5, 0.4, 0.6)
    gains = {name: {1e-5: mean, 1e-4: mean} for name in names}
    parts = [Stratum(f"layer.{'x' * 80}.{i}", 0.5, mean, mean, 3) for i in range(3)]
    for figure in (
        accuracy_figure(line, 0.95),
        gain_figure(gains, names[-1], names, 0.95, units),
        trials_figure(
            {name: [(0.9, 5), (0.1, 2)] for name in names}, dict.fromkeys(names, mean), names,
            bin_edges(0, 1, 16), units,
        ),
        layers_figure(dict.fromkeys(names[:3], parts), names, "loss", units),
    ):  # fmt: skip
        with unknown_signs():
            figure.draw_without_rendering()  # it warns where there is no room
        (axes,) = figure.axes
        room = axes.get_window_extent()
        assert room.width > 3.5 * figure.dpi
        assert room.height > 1.2 * figure.dpi
        shown = axes.get_tightbbox()
        assert shown is not None
        slack = 0.05 * figure.dpi
        assert shown.x0 >= -slack
        assert shown.y0 >= -slack
        assert shown.x1 <= figure.bbox.x1 + slack
        assert shown.y1 <= figure.bbox.y1 + slack
        legend = axes.get_legend()
        if legend is not None:
            assert len(legend.get_texts()) == len(names[: len(legend.get_texts())])
    legend = accuracy_figure(line, 0.95).axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == len(names)


@pytest.mark.long
def test_a_page_of_many_variants(digits: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = [f"variant number {number}" for number in range(22)]
    many: dict[str, nn.Module] = {
        name: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for name in names
    }
    faults = [BitFlip(1e-4), BitFlip(1e-3)]
    result = campaign.run(many, digits, faults, trials=2, **OPTIONS)
    page = Page(result.report(tmp_path))
    assert len(page.table("BER per bit", *names)) == 3
    svg = (tmp_path / "report.html").read_text()
    for name in names:
        assert svg.count(f">{name}</text>") >= 3  # lines, and trials at two rates


def test_looks_are_told_apart() -> None:
    names = [f"{number}" for number in range(21)]
    assert len(set(looks(names).values())) == 21


#: G. Machado, M. Oliveira, L. Fernandes, "A physiologically-based model for simulation of color
#: vision deficiency", IEEE TVCG 15 (2009), severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
#: Of CIE XYZ from linear sRGB, and the white of D65.
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(colour: str, blindness: str) -> NDArray[np.float64]:
    """CIELAB of a colour such as ``#0072b2`` as somebody sees it."""
    coded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0.0, 1.0)
    x, y, z = np.cbrt(np.maximum(XYZ @ seen / XYZ.sum(1), 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def palettes() -> dict[str, list[str]]:
    """The colours of lines, by day and by night: the page gives its own to those of the files."""
    css = (Path(report.__file__).parent / "templates" / "report.css").read_text()
    light, dark = (
        [re.findall(rf"--{name}: (#\w+)", css) for name in ("ink", "proact-colour-\\d")]
        for css in css.split("@media screen and (prefers-color-scheme: dark)")
    )
    return {
        "files": list(COLOURS),
        "light": light[0] + light[1],
        "dark": dark[0] + dark[1],
    }


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("palette", ["files", "light", "dark"])
def test_colours_stay_apart(palette: str, blindness: str) -> None:
    """A difference (CIE 1976) of 10 is one that people see at a glance; 2.3 is just noticeable."""
    colours = palettes()[palette]
    assert len(colours) == len(COLOURS)
    distances = {
        (one, other): float(np.linalg.norm(lab(one, blindness) - lab(other, blindness)))
        for one, other in itertools.combinations(colours, 2)
    }
    closest = min(distances, key=distances.__getitem__)
    assert distances[closest] >= 10, closest


def test_a_fault_of_the_users_own_whose_name_begins_like_exact_flips_has_rates() -> None:
    assert axis_of("ExactFlips") is axis_of("ExactFlips(bits=30)") is BY_FLIPS
    assert axis_of("ExactFlipsOfOnes") is axis_of("ExactFlipsOfOnes(bits=30)") is BY_RATE
