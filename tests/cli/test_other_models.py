"""Do the commands take models that do not classify, and name what such a model needs?"""

from __future__ import annotations

from pathlib import Path

import pytest

from proact.cli import main

OWN = """
import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
inputs = torch.randn(400, 4)
data = inputs, network(inputs).detach()

def error(output, targets, clean):
    return (output - targets).abs().flatten(1).mean(1)

def closeness(output, targets):
    return (1 - error(output, targets, None)).clamp(0, 1)

def squared(output, targets):
    return (output - targets).square().mean(1)

def part(output):
    return output
"""
FUNCTIONS = ("--metric", "error"), ("--validation-metric", "closeness"), ("--loss", "squared")


@pytest.fixture
def regression(tmp_path: Path) -> list[str]:
    (tmp_path / "mine.py").write_text(OWN)
    return ["--model", f"{tmp_path}/mine.py:network", "--data", f"{tmp_path}/mine.py:data"]


@pytest.mark.parametrize("command", ["campaign", "protect"])
def test_targets_that_the_metric_does_not_take_are_refused_before_anything_runs(
    command: str, regression: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "x.safetensors"
    assert main([command, *regression, "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "targets of shape (80, 1) torch.float32, which the metric top-1 needs" in errors
    assert "choose another metric" in errors
    assert not list(tmp_path.rglob("*.sqlite"))


def test_a_model_that_the_data_do_not_fit_is_refused(
    regression: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class of the model is in another file than the one that is named."""
    (tmp_path / "parts_of_other.py").write_text(
        "from torch import nn\n\nclass Wide(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.linear = nn.Linear(5, 2)\n\n"
        "    def forward(self, x):\n        return self.linear(x)\n"
    )
    (tmp_path / "other.py").write_text(
        "import parts_of_other\n\ndef network():\n    return parts_of_other.Wide()\n"
    )
    other = ["--model", f"{tmp_path}/other.py:network", *regression[2:]]
    given = ["--metric", f"{tmp_path}/mine.py:error", "--out", str(tmp_path / "out")]
    assert main(["campaign", *other, *given]) == 2
    assert "Wide raises an error for 2 samples of the inputs" in capsys.readouterr().err


def test_protect_takes_the_functions_that_it_asks_for(
    regression: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "thresholds.safetensors"
    method = [
        "protect",
        *regression,
        "--method",
        "proact:epochs=1,tolerance=1.0",
        "--out",
        str(out),
    ]
    given = [(flag, f"{tmp_path}/mine.py:{name}") for flag, name in FUNCTIONS]
    assert main([*method, *given[0]]) == 2
    assert "(on the command line --loss and --validation-metric)" in capsys.readouterr().err
    functions = [text for pair in given for text in pair]
    assert main([*method, *functions, "--output", f"{tmp_path}/mine.py:part"]) == 0
    found = ["campaign", *regression, "--variant", "relu", "--variant", str(out), *given[0]]
    assert main([*found, "--ber", "1e-3", "--trials", "5", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.filterwarnings("ignore:60 validation samples cannot show")
def test_plan_takes_the_functions_that_it_asks_for(
    regression: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second error comes from the method that trains."""
    quick = ["--guard", "proact", "--candidate", "q15.16", "--trials", "2", "--tolerance", "1"]
    plan = ["plan", *regression, *quick, "--models", str(tmp_path / "models")]
    given: list[str] = []
    for flag, name in FUNCTIONS[1:]:
        assert main([*plan, *given]) == 2
        assert flag in capsys.readouterr().err
        given += [flag, f"{tmp_path}/mine.py:{name}"]
    assert main([*plan, *given]) == 0
    assert "best: q15.16 with proact" in capsys.readouterr().out
