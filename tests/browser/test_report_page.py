"""Does a browser show a report as it is meant: offline, without scripts, by day, by night, on
paper and on a telephone?"""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from torch import nn

from proact import campaign
from proact.data import Data
from proact.faults import BitFlip
from proact.report import write_report

pytestmark = pytest.mark.long

HOSTILE = '<script>document.title="hacked"</script>'
RATES = ["1e-5", "1e-4", "1e-3"]
WIDTH, HEIGHT = 1280, 900
TELEPHONE = {"width": 390, "height": 844}


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = _chromium()
    if found is None:
        assert "CI" not in os.environ, "the build has to have a browser"
        pytest.skip("there is no Chromium on the PATH (chromium, chromium-browser, google-chrome)")
    with sync_playwright() as playwright:
        # Root, as in containers, is refused the sandbox.
        opened = playwright.chromium.launch(
            executable_path=found, chromium_sandbox=os.getuid() != 0
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(digits: Data, trained_cnn: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight variants, so that tables are wide and all colours are used."""
    folder = tmp_path_factory.mktemp("browser")
    torch.manual_seed(0)
    variants: dict[str, nn.Module] = {"small-cnn": trained_cnn}
    for name in (HOSTILE, "a variant with a rather long name", *"abcde"):
        variants[name] = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    options: dict[str, Any] = {"images_per_trial": 16, "encoding": "q15.16"}
    store = folder / "rows.sqlite"
    for sweep in (campaign.per_layer, campaign.per_bit):
        sweep(trained_cnn, digits, name="small-cnn", trials=170, store=store, **options)
    faults = [BitFlip(float(rate)) for rate in RATES]
    campaign.run(
        variants, digits, faults, trials=8, store=store, executor=1,
        notes={"experiment": {"model": HOSTILE}}, **options,
    )  # fmt: skip
    return write_report(store, folder / "report")["html"]


class Watched:
    """A page, and what it asked for and said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))


@pytest.fixture(scope="module")
def light(browser: Browser, report: Path) -> Iterator[Watched]:
    yield from _opened(browser, report, color_scheme="light")


@pytest.fixture(scope="module")
def dark(browser: Browser, report: Path) -> Iterator[Watched]:
    yield from _opened(browser, report, color_scheme="dark")


@pytest.fixture(scope="module")
def without_scripts(browser: Browser, report: Path) -> Iterator[Watched]:
    yield from _opened(browser, report, java_script_enabled=False)


@pytest.fixture(scope="module")
def narrow(browser: Browser, report: Path) -> Iterator[Watched]:
    yield from _opened(browser, report, viewport=TELEPHONE)


def _opened(browser: Browser, report: Path, **options: Any) -> Iterator[Watched]:
    context = browser.new_context(**{"viewport": {"width": WIDTH, "height": HEIGHT}, **options})
    watched = Watched(context.new_page())
    watched.page.goto(report.as_uri())
    yield watched
    context.close()


def figures(page: Page) -> list[Locator]:
    return page.locator("main [role=img]").all()


def test_nothing_is_fetched_and_nothing_is_said(
    light: Watched, dark: Watched, without_scripts: Watched, narrow: Watched, report: Path
) -> None:
    for watched in (light, dark, without_scripts, narrow):
        watched.page.wait_for_load_state("networkidle")
        assert watched.requests == [report.as_uri()]
        assert watched.said == []


def test_names_are_shown_and_do_not_run(light: Watched) -> None:
    page = light.page
    assert page.title() == f"{HOSTILE} – proact"  # noqa: RUF001
    assert page.locator("script").count() == 0
    assert page.locator("h1").inner_text() == f"Accuracy of {HOSTILE} under faults"
    assert HOSTILE in page.locator(".verdicts").inner_text()
    assert HOSTILE in page.locator("table").first.inner_text()
    legend = page.locator("#family-1 svg").first
    assert HOSTILE in (legend.text_content() or "")


def test_figures_need_no_scripts(without_scripts: Watched) -> None:
    shown = [figure for figure in figures(without_scripts.page) if figure.is_visible()]
    # Lines, gains, one distribution, layers, bits.
    assert len(shown) == 5
    for figure in shown:
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 400
        assert box["height"] > 150
        marks = [
            mark.bounding_box()
            for mark in figure.locator("svg path, svg use").all()
            if mark.is_visible()
        ]
        assert len([mark for mark in marks if mark and mark["width"] + mark["height"] > 0]) >= 7
        for mark in marks:
            assert mark is not None
            assert mark["x"] >= box["x"] - 1
            assert mark["x"] + mark["width"] <= box["x"] + box["width"] + 1


def test_another_rate_is_chosen_without_scripts(without_scripts: Watched) -> None:
    page = without_scripts.page

    def shown() -> list[str | None]:
        pictures = page.locator("#trials [role=img]").all()
        return [each.get_attribute("aria-label") for each in pictures if each.is_visible()]

    labels = {rate: f"distribution of the top-1 accuracy of trials at {rate}" for rate in RATES}
    assert len(shown()) == 1
    for rate in [*RATES, RATES[0]]:
        page.locator("#trials label", has_text=rate).click()
        assert shown() == [labels[rate]]
    # By the keyboard too.
    page.locator("#trials input:checked").press("ArrowRight")
    assert shown() == [labels[RATES[1]]]


def test_every_figure_has_a_name(light: Watched) -> None:
    labels = [figure.get_attribute("aria-label") for figure in figures(light.page)]
    assert len(labels) == 7
    assert all(labels)
    assert len(set(labels)) == len(labels)
    assert light.page.locator("svg").count() == 7, "all of them in a figure with a name"
    named = light.page.get_by_role("img", name=re.compile("over bit error rate"))
    assert named.count() == 2
    assert light.page.get_by_role("radiogroup").count() + light.page.get_by_role(
        "group", name="bit error rate"
    ).count() == 1  # fmt: skip


def test_headings_are_in_order(light: Watched) -> None:
    levels = light.page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert 2 in levels
    assert light.page.locator("html").get_attribute("lang") == "en"


# Colours ----------------------------------------------------------------------------------------

#: Of each text that is seen: its colour, and what it stands on.
TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest('style')) continue;
    const inSvg = element.closest('svg') !== null;
    const style = getComputedStyle(element);
    let behind = element;
    while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)' && behind.parentElement)
      behind = behind.parentElement;
    found.push([inSvg ? style.fill : style.color, getComputedStyle(behind).backgroundColor,
                walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""
#: Of each line with a legend of its own in a figure: its colour.
LINES = """() => [...document.querySelectorAll('#family-1 svg g[id*="line2d"] > path')]
  .map(path => getComputedStyle(path)).filter(style => parseFloat(style.strokeWidth) >= 1.4)
  .map(style => style.stroke)"""


def channels(colour: str) -> NDArray[np.float64]:
    """Of what a browser writes, ``rgb(1, 2, 3)``."""
    assert colour.startswith("rgb("), colour
    return np.array([float(part) for part in colour[4:-1].split(",")]) / 255


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, from 1 to 21."""

    def luminance(colour: str) -> float:
        coded = channels(colour)
        linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def paper_of(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def ink_of(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).color"))


def test_day_and_night_differ(light: Watched, dark: Watched) -> None:
    assert contrast(paper_of(light.page), paper_of(dark.page)) > 10
    assert contrast(ink_of(light.page), ink_of(dark.page)) > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str, request: pytest.FixtureRequest) -> None:
    texts = request.getfixturevalue(scheme).page.evaluate(TEXTS)
    assert len(texts) > 200
    for colour, behind, text in texts:
        assert contrast(colour, behind) >= 4.5, (text, colour, behind)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_can_be_seen(scheme: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(scheme).page
    colours = set(page.evaluate(LINES))
    assert len(colours) == 7
    assert {colour: round(contrast(colour, paper_of(page)), 2) for colour in colours
            if contrast(colour, paper_of(page)) < 3} == {}  # fmt: skip


def picture(page: Page) -> NDArray[np.uint8]:
    """What is seen of a page, (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


def test_pictures(light: Watched, dark: Watched) -> None:
    taken = []
    for watched in (light, dark):
        watched.page.locator("#family-1 svg").first.scroll_into_view_if_needed()
        seen = picture(watched.page)
        assert seen.shape == (HEIGHT, WIDTH, 3)
        colours, counts = np.unique(seen.reshape(-1, 3), axis=0, return_counts=True)
        assert len(colours) > 200
        commonest = colours[counts.argmax()] / 255
        assert np.allclose(commonest, channels(paper_of(watched.page)))
        assert 0.5 < counts.max() / counts.sum() < 0.99, "most is paper, and not all"
        taken.append(seen.astype(float))
    assert np.abs(taken[0] - taken[1]).mean() > 100


# Paper and telephones ---------------------------------------------------------------------------


@pytest.fixture
def printed(browser: Browser, report: Path) -> Iterator[Page]:
    """As on A4, 210 mm wide with margins of 16 mm, of a reader who likes it dark."""
    width = round((210 - 2 * 16) / 25.4 * 96)
    for watched in _opened(
        browser, report, color_scheme="dark", viewport={"width": width, "height": 1000}
    ):
        watched.page.emulate_media(media="print")
        yield watched.page


def test_paper_is_white_and_shows_what_is_folded(printed: Page, light: Watched) -> None:
    assert paper_of(printed) == paper_of(light.page) == "rgb(255, 255, 255)"
    assert ink_of(printed) == ink_of(light.page)
    assert set(printed.evaluate(LINES)) == set(light.page.evaluate(LINES))
    folded = printed.locator("details:not([open])").all()
    assert len(folded) >= 4
    for details in folded:
        inside = details.locator("table, pre").first
        assert inside.is_visible()
        box = inside.bounding_box()
        assert box is not None
        assert box["height"] > 20
        assert details.locator("summary").is_visible(), "it says what the table is"
    assert not printed.locator("#trials fieldset").is_visible(), "nobody can choose there"


def test_paper_cuts_nothing_off(printed: Page) -> None:
    wide = printed.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility()"
        " && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_a_pdf(light: Watched) -> None:
    pdf = light.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000


def test_a_telephone_scrolls_tables_not_the_page(narrow: Watched) -> None:
    page = narrow.page
    assert page.evaluate("document.documentElement.scrollWidth") <= TELEPHONE["width"]
    table = page.locator("#family-1 table").first
    box = page.locator("#family-1 .wide:has(table)").first
    outer, inner = box.bounding_box(), table.bounding_box()
    assert outer is not None
    assert inner is not None
    assert inner["width"] > outer["width"], "there is something to scroll"
    box.evaluate("box => box.scrollLeft = box.scrollWidth")
    moved = table.bounding_box()
    assert moved is not None
    assert moved["x"] + moved["width"] <= TELEPHONE["width"]
    assert page.evaluate("document.documentElement.scrollLeft") == 0


def test_figures_can_be_read_on_a_telephone(narrow: Watched) -> None:
    """They are scrolled rather than made too small: letters are 7 pixels high or more."""
    heights = narrow.page.evaluate(
        "[...document.querySelectorAll('#family-1 svg text')]"
        ".map(text => text.getBoundingClientRect().height).filter(height => height > 0)"
    )
    assert len(heights) > 10
    assert np.median(heights) >= 7
