"""Do networks and data of the user's own load, and is what is wrong with them her own traceback?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proact.cli import main

ROOT = Path(__file__).parents[2]


def profile(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proact", "profile", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


def test_the_table_of_a_named_network() -> None:
    done = profile("--model", "vgg16")
    assert done.returncode == 0, done.stderr
    for words in ("14,719,818", "276,480", "2,060", "134.2x", "relu5_3", "512x2x2"):
        assert words in done.stdout


def test_the_documented_example() -> None:
    example = ROOT / "docs" / "own_network.py"
    done = profile("--model", f"{example}:network", "--data", f"{example}:data")
    assert done.returncode == 0, done.stderr
    assert "547 parameters" in done.stdout
    assert "relu_2" in done.stdout
    # The same as a module, from where it lies; what it finds beside itself is importable.
    again = profile(
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


def test_an_attribute_that_is_a_network(own: Path) -> None:
    done = profile("--model", f"{own}/mine.py:network", "--shape", "3x2x2")
    assert done.returncode == 0, done.stderr
    assert "62 parameters" in done.stdout


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mine.py:broken", "KeyError: 'missing key'"),
        ("syntax.py:x", "SyntaxError"),
        ("imports.py:x", "No module named 'not_installed_anywhere'"),
    ],
)
def test_what_her_code_raises_is_her_traceback(own: Path, source: str, words: str) -> None:
    failed = profile("--model", source, cwd=own)
    assert failed.returncode == 2
    assert words in failed.stderr
    assert failed.stderr.startswith("error: ")
    assert str(ROOT / "proact") not in failed.stderr
    assert "importlib" not in failed.stderr


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
    own: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(own)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the file's folder comes into it
    assert main(["profile", *arguments]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert "Traceback" not in errors


def test_ctrl_c_in_her_code_ends_the_program(own: Path) -> None:
    assert profile("--model", "mine.py:interrupted", cwd=own).returncode == 130


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


def test_activations_skipped_modules_and_an_own_forward(tmp_path: Path) -> None:
    (tmp_path / "tagger.py").write_text(TAGGER, encoding="utf-8")
    given = ["--model", "tagger.py:model", "--data", "tagger.py:data", "--forward", "tagger.py:run"]
    done = profile(*given, "--activations", "all", "--skip", "wild", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "act" in done.stdout
    assert "5x6" in done.stdout
    refused = profile(*given, "--activations", "all", cwd=tmp_path)
    assert refused.returncode == 2
    assert "skip=('wild',)" in " ".join(refused.stderr.split())
