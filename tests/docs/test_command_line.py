"""Runs the commands of the page in order, and reads its experiment file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from blocks import DOCS

from proact.cli import main
from proact.config.experiment import Experiment
from proact.config.reading import read_experiment
from proact.options import options_of

PAGE = DOCS / "howto" / "command_line.md"


def experiment_file() -> str:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiment.yaml").write_text(experiment_file())
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines]
    assert {command[1] for command in commands} == {
        *("campaign", "report", "protect", "plan", "profile", "verify", "info")
    }
    threads = torch.get_num_threads()
    try:
        for program, *arguments in commands:
            assert program == "proact"
            assert main(arguments) == 0, arguments
    finally:
        torch.set_num_threads(threads)
    assert Path("runs/mine/report.html").is_file()
    assert Path("runs/again/experiment.yaml").is_file()


def test_it_explains_every_key(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(experiment_file())
    assert read_experiment(file).baseline == "relu"
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(), re.MULTILINE)
    keys = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert keys == options_of(Experiment).keys()


def test_encodings_by_tensor_are_read(tmp_path: Path) -> None:
    text = (DOCS / "howto" / "choose_a_code.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / "experiment.yaml"
    names = []
    for block in blocks:
        file.write_text(block)
        names.append(read_experiment(file).encoding_name)
    assert names == [
        '{"*.running_*": "float32+tmr", "*": "float32+bch2"}',
        '[[{"kind": ["threshold", "bound", "statistics"]}, "float32+tmr"], ["*", "float32+bch2"]]',
    ]
