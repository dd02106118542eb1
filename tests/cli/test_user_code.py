"""Do networks and data of the user's own load, and is what is wrong with them her own traceback?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proact.cli import main

ROOT = Path(__file__).parents[2]


def in_a_process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proact", "profile", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


Profile = Callable[..., tuple[int, str, str]]


@pytest.fixture
def profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Profile]:
    """`proact profile` in the folder of the test: its exit status, its output and its errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the folder of a file comes into it
    before = set(sys.modules)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["profile", *arguments])
        return status, *capsys.readouterr()

    yield run
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_the_table_of_a_named_network(profile: Profile) -> None:
    status, shown, errors = profile("--model", "vgg16")
    assert status == 0, errors
    for words in ("14,719,818", "276,480", "2,060", "134.2x", "relu5_3", "512x2x2"):
        assert words in shown


@pytest.mark.long
def test_the_documented_example(profile: Profile) -> None:
    example = ROOT / "docs" / "own_network.py"
    status, shown, errors = profile("--model", f"{example}:network", "--data", f"{example}:data")
    assert status == 0, errors
    assert "547 parameters" in shown
    assert "relu_2" in shown
    # The same as a module, from where it lies; what it finds beside itself is importable.
    again = in_a_process(
        "--model", "own_network:network", "--data", "own_network:data", cwd=example.parent
    )
    assert "547 parameters" in again.stdout


OWN = """
from torch import nn
import helper

network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
number = 3

def broken():
    return helper.fail()

def interrupted():
    raise KeyboardInterrupt
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "helper.py").write_text("def fail():\n    return {}['missing key']\n")
    (tmp_path / "syntax.py").write_text("def half(:\n")
    (tmp_path / "imports.py").write_text("import not_installed_anywhere\n")
    return tmp_path


def test_an_attribute_that_is_a_network(own: Path, profile: Profile) -> None:
    status, shown, errors = profile("--model", f"{own}/mine.py:network", "--shape", "3x2x2")
    assert status == 0, errors
    assert "62 parameters" in shown


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mine.py:broken", "KeyError: 'missing key'"),
        ("syntax.py:x", "SyntaxError"),
        ("imports.py:x", "No module named 'not_installed_anywhere'"),
    ],
)
def test_what_her_code_raises_is_her_traceback(
    own: Path, profile: Profile, source: str, words: str
) -> None:
    status, _, errors = profile("--model", source)
    assert status == 2
    assert words in errors
    assert errors.startswith("error: ")
    assert str(ROOT / "proact") not in errors
    assert "importlib" not in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "mine.py:nothing"], "mine.py has nothing named 'nothing'"),
        (["--model", "mine.py:number"], "expected a torch.nn.Module"),
        (["--model", "none.py:x"], "no file none.py"),
        (["--model", "no.such:x"], "no module 'no.such'"),
        (["--model", ":x"], "expected file.py:attribute or"),
        (["--model", "vgg61"], "did you mean 'vgg16'"),
        (["--shape", "3x"], "as in 3x32x32"),
        (["--model", "mine.py:network", "--shape", "3x9x9"], "does not take inputs of shape"),
        (["--data", "cifar10", "--data-folder", "nowhere"], "nowhere"),
        (["--classes", "0"], "num_classes is at least 1"),
    ],
)
def test_bad_input_is_one_sentence(
    own: Path, profile: Profile, arguments: list[str], words: str
) -> None:
    status, _, errors = profile(*arguments)
    assert status == 2
    assert words in errors
    assert "Traceback" not in errors


def test_ctrl_c_in_her_code_ends_the_program(own: Path) -> None:
    assert in_a_process("--model", "mine.py:interrupted", cwd=own).returncode == 130


TAGGER = """
import torch
from torch import nn

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.up, self.act = nn.Embedding(9, 4), nn.Linear(4, 6), nn.GELU()
        self.wild = Wild()

    def forward(self, ids, scale):
        hidden = self.act(self.up(self.embed(ids)) * scale)
        return {"tags": self.wild(hidden), "hidden": hidden}

class Wild(nn.Module):
    def forward(self, x):
        return torch.relu(x) if x.sum() < 1e9 else x

def model():
    return Tagger()

def data():
    return torch.randint(0, 9, (40, 5)), torch.randint(0, 6, (40, 5))

def run(model, ids):
    return model(ids, 2.0)
"""


def test_activations_skipped_modules_and_an_own_forward(tmp_path: Path, profile: Profile) -> None:
    (tmp_path / "tagger.py").write_text(TAGGER, encoding="utf-8")
    given = ["--model", "tagger.py:model", "--data", "tagger.py:data", "--forward", "tagger.py:run"]
    status, shown, errors = profile(*given, "--activations", "all", "--skip", "wild")
    assert status == 0, errors
    assert "act" in shown
    assert "5x6" in shown
    status, _, errors = profile(*given, "--activations", "all")
    assert status == 2
    assert "skip=('wild',)" in " ".join(errors.split())


@pytest.mark.long
def test_thresholds_are_kept_for_the_same_network_only(tmp_path: Path) -> None:
    """The slope is in no tensor, and the thresholds behind it depend on it."""

    def files_after_a_campaign(slope: float) -> set[str]:
        (tmp_path / "sloped.py").write_text(
            "import torch\nfrom torch import nn\n\n"
            "def network():\n"
            "    torch.manual_seed(0)\n"
            f"    layers = nn.Linear(4, 8), nn.LeakyReLU({slope}), nn.Linear(8, 8), nn.ReLU()\n"
            "    return nn.Sequential(*layers, nn.Linear(8, 3)).eval()\n\n"
            "def data():\n"
            "    return torch.arange(400.0).reshape(100, 4).sin(), torch.arange(100) % 3\n"
        )
        line = "campaign --model sloped.py:network --data sloped.py:data --method ranger --ber 1e-3"
        done = subprocess.run(
            [sys.executable, "-m", "proact", *line.split(), "--trials", "2", "--out", "out"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return {path.name for path in (tmp_path / "out" / "models").iterdir()}

    first = files_after_a_campaign(0.1)
    assert files_after_a_campaign(0.1) == first
    assert len(files_after_a_campaign(0.9) - first) == 1
