"""Do the files in experiments/ run, and does each table name the file that repeats it?"""

from __future__ import annotations

import importlib.util
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from proact import protect
from proact.cli import main
from proact.config.config_io import read
from proact.config.experiment import DEFAULT_VARIANTS
from proact.config.reading import read_experiment

# The reduced model on the digits loses more under some of the protections than they tolerate.
# Its 269 validation images are too few for the tolerance of 1 point.
pytestmark = [
    pytest.mark.filterwarnings("default:the clips lower:UserWarning"),
    pytest.mark.filterwarnings("default:269 validation samples cannot show:UserWarning"),
]

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
PROTECTION = ROOT / "experiments" / "protection_resnet20.yaml"
WEIGHT_RANGE = ROOT / "experiments" / "weight_range_resnet20.yaml"
REDUCED = ["--data", "digits", "--model", "small-cnn", "--threads", "1", "--workers", "1"]
REDUCED += ["--trials", "2", "--images-per-trial", "40", "--json"]


def run(file: Path, out: Path) -> dict[str, Any]:
    """The document that ``proact campaign`` prints for a file with reduced trials on digits."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["campaign", str(file), *REDUCED, "--out", str(out)]) == 0
    document: dict[str, Any] = json.loads(printed.getvalue())
    return document


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("protection")
    return out, run(PROTECTION, out)


def header(file: Path) -> str:
    """The comment with which a file begins, as one line."""
    lines = file.read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.lstrip("# ") for line in lines[:end])


def test_there_are_no_other_files() -> None:
    assert FILES
    found = {file for file in (ROOT / "experiments").iterdir() if file.is_file()}
    # The language model is a model of the user's kind: a Python file that an experiment names.
    assert found == {*FILES, ROOT / "experiments" / "language_model.py"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_an_experiment(file: Path) -> None:
    experiment = read_experiment(file)
    assert experiment.all_faults
    written = read(file)
    assert written["proact"] == 1
    # What determines the result is spelled out, so that a change of a default does not change it.
    for key in ("model", "data", "threads", "seed", "encoding", "trials", "images_per_trial"):
        assert written[key] == experiment.to_plain()[key]
    for recipe in experiment.variants.values():
        assert {step.method for step in recipe.steps} <= set(protect.methods())
    assert next(iter(experiment.variants.values())).is_plain


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_says_what_it_answers_and_where_it_is_shown(file: Path) -> None:
    comment = header(file)
    places = [comment.index(word) for word in ("Question: ", "Shown in: ", "Run: ", "Time: ")]
    assert places == sorted(places)
    assert f"proact campaign experiments/{file.name} --out runs/" in comment
    pages = re.findall(r"docs/[\w/]+\.md", comment)
    assert pages
    for page in pages:
        # Line breaks of a page may fall anywhere.
        assert f"experiments/{file.name}" in (ROOT / page).read_text(), page


def test_pages_name_files_that_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        name for page in pages for name in re.findall(r"experiments/\w+\.ya?ml", page.read_text())
    }
    assert named == {f"experiments/{file.name}" for file in FILES}


def test_the_demo_is_one_of_them() -> None:
    script = ROOT / "benchmarks" / "ber_campaign.py"
    spec = importlib.util.spec_from_file_location("ber_campaign", script)
    assert spec is not None
    assert spec.loader is not None
    ber_campaign = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ber_campaign)
    assert ber_campaign.OPTIONS[0] == str(ROOT / "experiments" / "digits.yaml")
    demo = read_experiment(Path(ber_campaign.OPTIONS[0]))
    assert set(demo.variants) > set(DEFAULT_VARIANTS)


def test_every_variant_meets_every_fault(finished: tuple[Path, dict[str, Any]]) -> None:
    _, document = finished
    experiment = read_experiment(PROTECTION)
    wanted = [(name, str(f)) for name in experiment.variants for f in experiment.all_faults]
    assert [(cell["variant"], cell["fault"]) for cell in document["cells"]] == wanted
    assert {cell["trials"] for cell in document["cells"]} == {2}
    assert document["costs"].keys() == experiment.variants.keys()
    assert {gain["baseline"] for gain in document["gains"]} == {"relu"}


def test_weight_range_does_not_see_faults_in_activations(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    _, document = finished

    def under_activation_faults(variant: str) -> list[tuple[float, float, float]]:
        return [
            (cell["accuracy"], cell["low"], cell["high"])
            for cell in document["cells"]
            if cell["variant"] == variant and cell["fault"].startswith("ActivationFlip")
        ]

    assert len(under_activation_faults("relu")) == 4
    for guarded, plain in (
        ("weight-range", "relu"),
        ("proact (hybrid) + weight-range", "proact (hybrid)"),
    ):
        assert under_activation_faults(guarded) == under_activation_faults(plain)


@pytest.mark.long
def test_the_same_command_continues_and_another_file_reuses_the_models(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, document = finished

    def protected() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (out / "models").iterdir()}

    before = protected()
    assert len(before) >= 13
    assert run(PROTECTION, out)["cells"] == document["cells"]
    spared = run(WEIGHT_RANGE, out)
    assert protected() == before
    assert len(spared["cells"]) == 3 * 7
    assert all("exclude" in cell["fault"] for cell in spared["cells"])
