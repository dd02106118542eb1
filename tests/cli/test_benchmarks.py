"""Do the benchmarks run, name their goals, and refuse bad input alike? No time is asserted."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # as Python does for a script in that folder

SCRIPTS = sorted(
    file.stem
    for file in BENCHMARKS.glob("[!_]*.py")
    if file.stem != "ber_campaign"  # `proact campaign` by another name
)
TINY = ["--model", "small-cnn", "--data", "digits", "--threads", "1"]


def run(script: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160", **variables},
    )


@pytest.mark.slow
def test_threshold_training_is_compared_with_the_plain_loop(tmp_path: Path) -> None:
    few = ["--threshold-epochs", "2", "--trials", "10", "--steps", "5", "--model-folder", tmp_path]
    done = run("proact_training", *TINY, *few, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert "goal: 0.1 of the time of the network" in done.stdout
    assert done.stdout.count("proact - plain loop at ") == 3
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["seconds"]) == {"network", "proact", "plain loop"}
    mine, plain = (found["thresholds"][name] for name in ("proact", "plain loop"))
    assert list(mine) == list(plain) == ["relu1", "relu2", "relu3", "relu4"]


@pytest.mark.slow
def test_weight_range_prints_each_ratio_beside_its_goal() -> None:
    done = run("weight_range", "--model", "ResNet-20", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    for words in ("torch.sum", "<= 1.2", "torch.where, tensor by tensor", "unguarded", "<= 1.05"):
        assert words in done.stdout


@pytest.mark.slow
def test_scrub_prints_each_ratio_beside_its_goal() -> None:
    few = ["--mebibytes", "1", "--repeats", "2", "--threads", "2", "--models", "resnet20"]
    done = run("scrub", *few)
    assert done.returncode == 0, done.stderr
    for words in ("float16", "bch3", "baseline", ">= 0.5", "1 thread", "2 threads", "resnet20"):
        assert words in done.stdout


@pytest.mark.slow
def test_training_keeps_the_model(tmp_path: Path) -> None:
    done = run("training", *TINY, "--epochs", "1", "--model-folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1169 training images" in done.stdout
    assert "test accuracy" in done.stdout
    assert any(tmp_path.iterdir())


def test_stopping_rules_prints_a_row_for_each_rule(tmp_path: Path) -> None:
    few = ["--campaigns", "2", "--cells", "rare", "--json", tmp_path / "outcomes.json"]
    done = run("stopping_rules", *few)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    assert len(outcomes) == 4
    for outcome in outcomes:
        assert outcome["cell"] == "rare"
        assert outcome["rule"] in done.stdout
        assert outcome["trials"] > 0


@pytest.mark.slow
def test_residual_rates_prints_formulas_beside_counts(tmp_path: Path) -> None:
    few = ["--rows", "8", "--trials", "2", "--json", tmp_path / "rates.json"]
    done = run("residual_rates", *few)
    assert done.returncode == 0, done.stderr
    assert "| `float32+bch2` | 1e-03 | 0.032 | " in done.stdout
    assert "| `int8+secded` | 8 | " in done.stdout
    figures = json.loads((tmp_path / "rates.json").read_text())
    assert all(row["holds"] for row in figures["independent"])
    assert all(sum(row["counts"]) > 0 for row in figures["bursts"])


@pytest.mark.slow
def test_trials_at_once_are_compared_with_single_ones(tmp_path: Path) -> None:
    few = ["--models", "small-cnn", "--trials", "4", "--repeats", "2"]
    done = run("trials_at_once", *few, "--json", tmp_path / "rates.json")
    assert done.returncode == 0, done.stderr
    assert "trials at once" in done.stdout
    figures = json.loads((tmp_path / "rates.json").read_text())
    assert set(figures) == {"small-cnn, 8 images", "small-cnn, 200 images"}
    assert set(figures["small-cnn, 8 images"]) == {"1", "4"}


def test_startup_times_each_command() -> None:
    done = run("startup", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    for command in ("proact --help", "proact campaign --help", "proact --version"):
        assert f"{command}: " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "rows"),
    [
        (
            "injection",
            ("bfloat16", "int8-tensor", "q15.16 in numpy", "inputs of convolutions", "<= 1.1"),
        ),
        (
            "coded_injection",
            ("float32+bch2", "float32+secded32", "float32+cep", "<= 1.5", "goal >= 100"),
        ),
    ],
)
def test_injections_print_a_row_for_each_encoding(script: str, rows: tuple[str, ...]) -> None:
    done = run(script, "--repeats", "1")
    assert done.returncode == 0, done.stderr
    for row in rows:
        assert row in done.stdout


@pytest.mark.slow
def test_loading_measures_a_stand_in_of_noise() -> None:
    done = run("loading")
    assert done.returncode == 0, done.stderr
    assert "archive of noise: " in done.stdout


def refused(
    script: str, arguments: list[str], capsys: pytest.CaptureFixture[str], expected_code: int = 2
) -> str:
    """The sentence of a script that refuses its arguments and prints nothing else."""
    main = importlib.import_module(script).main
    try:
        code = main(arguments)
    except SystemExit as left:  # argparse ends a script so
        code = left.code
    shown = capsys.readouterr()
    assert code == expected_code
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        importlib.import_module(script).main(["--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "?" in text, "a benchmark asks a question"
    assert "(default: None)" not in text
    assert "(default: False)" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_refuses_bad_arguments_in_one_sentence(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--speed" in refused(script, ["--speed", "11"], capsys)


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        (
            "campaign_speed",
            ["--script-trials", "1"],
            "--script-trials: expected an integer of at least 2, got 1",
        ),
        ("campaign_speed", ["--margin", "0"], "--margin: expected a finite number above 0, got 0"),
        ("campaign_speed", ["--confidence", "1"], "--confidence: expected a number in (0, 1)"),
        ("campaign_speed", ["--ber", "1.5"], "1.5"),
        ("campaign_speed", ["--json", "/nowhere/figures.json"], "cannot be written"),
        ("campaign_speed", ["--data", "nothing"], "nothing"),
        ("weight_range", ["--repeats", "0"], "--repeats: expected an integer of at least 1, got 0"),
        ("weight_range", ["--threads", "many"], "--threads: expected an integer of at least 1"),
        ("weight_range", ["--seed", "-1"], "--seed: expected an integer in [0, 2^63), got -1"),
        ("weight_range", ["--model", "AlexNet"], "AlexNet"),
        ("scrub", ["--models", "resnet18"], "resnet18"),
        ("injection", ["--ber", "nan"], "--ber: "),
        ("injection", ["--activation-ber", "2"], "--activation-ber: "),
        ("stopping_rules", ["--margin", "0.5"], "--margin: expected a number in (0, 0.5), got 0.5"),
        ("stopping_rules", ["--images", "1001"], "--images: expected an integer in [1, 1001)"),
        ("stopping_rules", ["--confidence", "95"], "--confidence: expected a number in (0, 1)"),
        ("stopping_rules", ["--cells", "often"], "often"),
        ("training", ["--epochs", "0"], "--epochs: expected an integer of at least 1, got 0"),
        ("training", ["--data", "letters"], "letters"),
        ("training", ["--data", "mnist", "--data-folder", "/nowhere"], "/nowhere"),
        ("proact_training", [*TINY, "--model", "vgg61"], "vgg61"),
        ("proact_training", ["--ber", "many"], "many"),
        ("loading", ["--data-folder", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_values_are_refused_by_name(
    script: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(script, arguments, capsys)


def test_a_script_that_is_interrupted_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = importlib.import_module("training")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "run", interrupted)
    sentence = refused("training", TINY, capsys, expected_code=130)
    assert sentence.startswith("interrupted: ")
    assert "the same command continues" in sentence


def test_an_instruction_set_that_is_missing_is_refused() -> None:
    for script in SCRIPTS:
        done = run(script, "--help", PROACT_ISA="mmx")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: PROACT_ISA is 'mmx'")
        assert done.stderr.count("\n") == 1
