"""Do the commands do what their help says: results, files, JSON, exit codes?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
import webbrowser
from pathlib import Path
from typing import Any

import pytest
import torch

import proact
from proact import faults, report
from proact.cli import main
from proact.config.experiment import Experiment
from proact.config.reading import read_options
from proact.results import MemoryConditions
from proact.results.store import Store

ROOT = Path(__file__).parents[2]
OWN = ROOT / "docs" / "own_network.py"
WINES = ["--model", f"{OWN}:network", "--data", f"{OWN}:data"]
QUICK = [
    *WINES,
    "--ber",
    "1e-3",
    "--ber",
    "1e-2,3e-2",
    "--trials",
    "20",
    "--images-per-trial",
    "all",
]
TWO = ["--variant", "relu", "--variant", "ranger:mode=zero"]
LARGE = """
import torch
from torch import nn
network = nn.Sequential(nn.Linear(13, 1), nn.Linear(1, 3, bias=False))
nn.init.constant_(network[0].weight, 100.0)
"""
PICKY = """
from torch import nn
class Picky(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(13, 3), nn.ReLU())
    def forward(self, x):
        return {}["the missing key"]
"""
COMMANDS = ["campaign", "report", "protect", "plan", "profile", "verify", "info"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign") / "out"
    assert main(["campaign", *QUICK, *TWO, "--sweep", "bit", "--out", str(folder)]) == 0
    return folder


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows(folder: Path) -> int:
    with Store(folder / "rows.sqlite", read_only=True) as store:
        return store.number("SELECT count(*) FROM row")


def test_campaign_leaves_a_store_and_the_file_that_repeats_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(finished)
    assert before >= 2 * 3 * 20
    document = as_json(capsys, "campaign", finished / "experiment.yaml", "--out", finished)
    assert rows(finished) == before, "all of it was there"
    assert len(document["cells"]) == 2 * 3
    assert {cell["trials"] for cell in document["cells"]} == {20}
    assert [gain["variant"] for gain in document["gains"]] == ["ranger:mode=zero"] * 3
    assert document["costs"]["ranger:mode=zero"]["thresholds"] == 2
    assert document["costs"]["ranger:mode=zero"]["latency"] > 0
    (sweep,) = document["sweeps"]
    assert (sweep["variant"], sweep["kind"], len(sweep["strata"])) == ("relu", "bit", 32)
    # In another folder, from nothing, it gives the same cells.
    anew = as_json(capsys, "campaign", finished / "experiment.yaml", "--out", tmp_path)
    assert anew["cells"] == document["cells"]
    assert anew["experiment"] == document["experiment"]
    assert read_options(Experiment, document["experiment"]).to_plain() == document["experiment"]


def test_campaign_prints_tables_and_what_comes_next(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["campaign", *QUICK, *TWO, "--out", str(finished)]) == 0
    output, notes = capsys.readouterr()
    assert re.search(r"relu +│ +1e-3 .* to .* 20 ", output)
    assert "Difference to relu on the same faults" in output
    assert re.search(r"ranger:mode=zero +│ +2 +│ +8 ", output), "thresholds and bytes"
    assert f"report: proact report {finished}" in output
    assert "Loss of" not in output, "no sweep was asked for"
    # What is on the way is for people who wait.
    assert "inject: 2 variants x 3 faults" in notes
    assert "inject" not in output


def test_campaign_prints_worst_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["campaign", *QUICK, *TWO, "--worst-flips", "2", "--out", str(tmp_path)]) == 0
    found = (
        r"relu, flips that a search found to hurt most: \d+\.\d% without faults, \d+\.\d% after 1"
    )
    assert re.search(found, capsys.readouterr().out)


def test_flags_stand_over_the_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = as_json(
        capsys,
        *("campaign", finished / "experiment.yaml", "--out", tmp_path, "--variant", "relu"),
        *("--ber", "1e-3", "--fault", '{"kind": "ExactFlips", "n": 2}', "--trials", "5"),
        *("--encoding", "float32", "--metric", "loss", "--seed", "3"),
    )
    assert [cell["fault"] for cell in document["cells"]] == ["BitFlip(0.001)", "ExactFlips(2)"]
    assert document["experiment"]["seed"] == 3
    assert document["experiment"]["model"] == f"{OWN}:network", "the file's"
    assert all(cell["loss"] > 0 for cell in document["cells"])


def test_what_was_measured_and_what_it_cost_is_in_the_store(finished: Path) -> None:
    with Store(finished / "rows.sqlite", read_only=True) as store:
        described = [json.loads(text) for (text,) in store.execute("SELECT description FROM run")]
    campaign, sweep = (
        next(run for run in described if run["kind"] == kind) for kind in ("campaign", "bit")
    )
    assert campaign["notes"]["costs"]["ranger:mode=zero"]["thresholds"] == 2
    assert read_options(Experiment, campaign["notes"]["experiment"]).model == f"{OWN}:network"
    assert [variant["name"] for variant in sweep["variants"]] == ["relu"]


def test_thresholds_go_from_protect_to_campaign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "thresholds.safetensors"
    made = as_json(capsys, "protect", *WINES, "--method", "ranger+weight-range", "--out", out)
    assert list(made["costs"]) == ["unprotected", "ranger+weight-range"]
    assert made["costs"]["ranger+weight-range"]["bounds"] > 0
    assert main(["protect", *WINES, "--method", "ranger", "--out", str(out)]) == 0
    assert re.search(r"ranger +│ +2 +│ +8 ", capsys.readouterr().out)
    document = as_json(
        capsys,
        *("campaign", *WINES, "--variant", "relu", "--variant", out, "--variant", "ranger"),
        *("--ber", "1e-2", "--trials", "5", "--out", tmp_path / "out"),
    )
    plain, loaded, chosen = (cell["accuracy"] for cell in document["cells"])
    assert loaded == chosen
    assert plain != chosen
    assert document["cells"][1]["variant"] == "thresholds"
    # They fit the network that they were chosen for, and are refused by another.
    (tmp_path / "large.py").write_text(LARGE)
    other = ["--model", f"{tmp_path}/large.py:network", "--data", f"{OWN}:data"]
    refused = ["campaign", *other, "--variant", str(out), "--out", str(tmp_path / "other")]
    assert main(refused) == 2
    assert "was saved for other weights" in capsys.readouterr().err


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    document = as_json(capsys, "profile", "--model", "vgg16")
    assert document["parameters"] == 14_719_818
    assert document["thresholds"]["neuron"] == {"count": 276_480, "bytes": 4 * 276_480}
    assert document["sites"][0]["shape"] == [64, 32, 32]


def test_verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    document = as_json(capsys, "verify", "--trials", "50", "--bits", "0xff")
    assert document["passed"]
    assert all(check["passed"] for check in document["checks"])
    # Without a right sampler it fails, and says so in every way.
    monkeypatch.setattr(faults.Verification, "passes", lambda self, check: False)
    assert main(["verify", "--trials", "50", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_info(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    (folder / "cifar-10-binary.tar.gz").touch()
    monkeypatch.setenv("PROACT_DATA", str(tmp_path))
    document = as_json(capsys, "info")
    assert document["build"]["version"] == proact.__version__
    assert document["packages"]["torch"] == torch.__version__
    assert document["data_sets"]["cifar10"] == str(folder)
    assert document["data_sets"]["digits"] == "with scikit-learn"
    assert "has not run on a GPU" in document["cuda"]["note"]
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    assert "has not run on a GPU" in " ".join(output.split())
    assert "resnet20" in output


def test_report_hands_the_store_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    shown: list[str] = []

    def write(store: Path, out: Path, **options: Any) -> dict[str, Path]:
        calls.append((store, out, options))
        return {"html": out / "report.html", "csv": out / "cells.csv"}

    monkeypatch.setattr(report, "write_report", write, raising=False)
    monkeypatch.setattr(webbrowser, "open", shown.append)
    files = as_json(capsys, "report", tmp_path)
    assert files == {"html": f"{tmp_path}/report.html", "csv": f"{tmp_path}/cells.csv"}
    options = ["--baseline", "relu", "--run", "2", "--at", "1e-5", "--limit", "0.02"]
    options += ["--family-wise", "--compare", str(tmp_path), "--open"]
    options += ["--fit-per-mbit", "500", "--reload-hours", "24", "--budget", "asil-d"]
    store = tmp_path / "mine.sqlite"
    assert main(["report", str(store), "--out", str(tmp_path / "out"), *options]) == 0
    asked = {"baseline": "relu", "run": 2, "at": 1e-5, "limit": 0.02}
    asked["compare"] = tmp_path / "rows.sqlite"
    asked["conditions"] = MemoryConditions(500.0, 24.0, "asil-d")
    assert calls == [
        (tmp_path / "rows.sqlite", tmp_path, {**dict.fromkeys(asked), "family_wise": False}),
        (store, tmp_path / "out", {**asked, "family_wise": True}),
    ]
    assert shown == [f"file://{tmp_path}/out/report.html"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--fit-per-mbit", "500"], "--reload-hours is missing"),
        (["--budget", "asil-d"], "--reload-hours is missing"),
        (["--reload-hours", "24"], "--fit-per-mbit is missing"),
        (
            ["--fit-per-mbit", "-1", "--reload-hours", "24"],
            "fit_per_mbit: expected",
        ),
        (["--fit-per-mbit", "1", "--reload-hours", "1", "--budget", "asil-x"], "asil-x"),
    ],
    ids=str,
)
def test_conditions_of_the_memory_are_checked(
    options: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path), *options]) == 2
    assert error in capsys.readouterr().err


def test_report_of_a_campaign(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = as_json(capsys, "report", finished)
    assert Path(files["html"]).parent == finished
    assert all(Path(file).stat().st_size > 0 for file in files.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"proact {command}" in text
    assert "--json" in text


def test_help_states_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    main(["campaign", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "probabilities per stored bit in [0, 1]",
        "[default: q15.16]",
        "[default: 0.95]",
        "[default: relu ranger proact weight-range]",
        "(count)",
        "(pixels)",
        "[0, 2^63)",
    ):
        assert words in text


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"proact {proact.__version__}\n"
    assert main([]) == 2
    assert "Usage: proact" in capsys.readouterr().out


def test_shells_complete_names() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proact"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "_PROACT_COMPLETE": "complete_bash",
            "COMP_WORDS": "proact protect --method weight",
            "COMP_CWORD": "3",
        },
    )
    assert done.stdout.split() == ["weight-range"], done.stderr


def test_help_waits_for_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from proact.cli import main\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'scipy', 'pydantic', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert main(['--help']) == 0\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert main(['campaign', '--help']) == 0\n"
        "heavy -= {'pydantic'}  # typer's own, where it has to show types\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["campain"], "got 'campain'; did you mean 'campaign'?"),
        (["campaign", "--encodng", "int8"], "no option '--encodng'; did you mean '--encoding'?"),
        (["campaign", "--trials", "few"], "--trials"),
        (["campaign", "--trials", "0"], "--trials: expected an integer in [1, 2^32), got 0"),
        (["campaign", "--variant", "rangr"], "did you mean 'ranger'?"),
        (["campaign", "--variant", "ranger:mod=zero"], "no option 'mod'; did you mean 'mode'?"),
        (["campaign", "--model", "resnet21"], "did you mean"),
        (["campaign", "--data", "digit"], "did you mean 'digits'?"),
        (["campaign", "--data", "imagefolder"], "imagefolder: expected a folder, got none"),
        (["campaign", "--encoding", "int9"], "--encoding: an encoding is one of"),
        (["campaign", "--encoding", "float64"], "float64"),
        (["campaign", "--ber", "1e-6,2"], "--ber: a bit error rate lies in [0, 1]"),
        (["campaign", "--fault", "{'kind'"], "--fault: expected a fault such as"),
        (["campaign", "--margin", "0"], "--margin: expected a finite number above 0, got 0"),
        (["campaign", "--images-per-trial", "few"], "--images-per-trial: expected a number"),
        (["campaign", "--sweep", "layers"], "--sweep: a sweep is one of layer, bit"),
        (["campaign", "none.yaml"], "there is no file none.yaml"),
        (["campaign", "experiment.json"], "*.yaml"),
        (["campaign", "newer.yaml"], "newer.yaml: proact: expected a version up to 1, got 9"),
        (["campaign", "typo.yaml"], "typo.yaml: variants.ranger.mod: ranger has no option 'mod'"),
        (
            ["campaign", "--workers", "1", "--scheduler", "tcp://x:1"],
            "expected workers or a scheduler, got both",
        ),
        (["campaign", "--variant", "none.safetensors"], "there is no file none.safetensors"),
        (["campaign", "--model", "typo.yaml:x"], "no module 'typo.yaml'"),
        (["protect", "--method", "relu"], "expected a method of protection"),
        (["profile", "--shape", "3x"], "as in 3x32x32"),
        (["verify", "--trials", "5"], "50"),
        (["report"], "STORE"),
        (["report", "nothing.sqlite"], "nothing.sqlite"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "newer.yaml").write_text("proact: 9\nsomething: new\n")
    (tmp_path / "typo.yaml").write_text("variants: {ranger: {method: ranger, mod: zero}}\n")
    out = [] if arguments[0] not in ("campaign", "protect") else ["--out", "out/x.safetensors"]
    assert main([*arguments, *out]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1, errors
    assert words in errors
    assert not (tmp_path / "out").exists()


def test_folders_and_files_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "rows.sqlite").write_text("my notes")
    (tmp_path / "out" / "experiment.yaml").mkdir(parents=True)
    thresholds = tmp_path / "folder.safetensors"
    thresholds.mkdir()
    for arguments, words in (
        (["campaign", *QUICK, "--out", tmp_path / "file" / "below"], "cannot be written"),
        (["campaign", *QUICK, "--out", tmp_path / "out"], "experiment.yaml"),
        (["campaign", *QUICK, "--out", tmp_path], "not a proact store"),
        (["protect", *WINES, "--out", thresholds], "it is a folder"),
        (["protect", *WINES, "--out", tmp_path / "file" / "x.safetensors"], "cannot be written"),
        (["protect", *WINES, "--out", tmp_path / "thresholds.txt"], "--out"),
    ):
        assert main([*map(str, arguments)]) == 2
        errors = capsys.readouterr().err
        assert words in errors
        assert errors.startswith("error: ")
    assert (tmp_path / "rows.sqlite").read_text() == "my notes"
    assert not (tmp_path / "experiment.yaml").exists()


def test_an_internal_error_is_reported_and_written_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def nothing_there(*arguments: Any, **options: Any) -> None:
        {}["a key"]

    def not_meant(*arguments: Any, **options: Any) -> None:
        int("no number")

    for broken, kind in ((nothing_there, "KeyError: 'a key'"), (not_meant, "ValueError: invalid")):
        monkeypatch.setattr(faults, "verify", broken)
        assert main(["verify", "--seed", "11"]) == 1
        (sentence,) = capsys.readouterr().err.splitlines()
        assert f"an internal error of proact ({kind}" in sentence
        assert "CONTRIBUTING.md" in sentence
        found = re.search(r"report it with (\S+),", sentence)
        assert found is not None
        text = Path(found[1]).read_text()
        assert "Traceback" in text
        assert kind in text
        assert "'--seed', '11'" in text
    assert "## Reporting a bug" in (ROOT / "CONTRIBUTING.md").read_text()


def test_what_her_network_raises_later_is_her_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picky.py").write_text(PICKY)
    network = ["--model", f"{tmp_path}/picky.py:Picky", "--data", f"{OWN}:data"]
    named = ["--model", "picky:Picky", "--data", f"{OWN}:data"]
    monkeypatch.chdir(tmp_path)
    for given in (network, named):
        assert main(["campaign", *given, "--trials", "5", "--out", str(tmp_path / "out")]) == 2
        errors = capsys.readouterr().err
        assert "picky.py failed:" in errors
        assert "KeyError: 'the missing key'" in errors
        assert str(ROOT / "proact") not in errors
        del sys.modules["picky"]


def test_warnings_are_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("default")  # the tests' own filter makes errors of them
    (tmp_path / "large.py").write_text(LARGE)
    network = ["--model", f"{tmp_path}/large.py:network"]
    assert main(["verify", *network, "--trials", "50", "--encoding", "q3.4"]) in (0, 1)
    errors = capsys.readouterr().err
    assert re.match(r"warning: \d+ of 17 numbers are out of the range of q3.4", errors)
    assert ".py:" not in errors


def test_plan_prints_a_table_and_a_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [*WINES, "--models", str(tmp_path), "--guard", "none", "--trials", "8"]
    by_tensor = '{"*.bias": "float32+tmr", "*": "bfloat16"}'
    both = ["--candidate", "bfloat16+secded", "--candidate", by_tensor]
    rates = ["--ber", "1e-2,3e-2", "--bits", "16"]
    document = as_json(capsys, "plan", *quick, *both, *rates)
    rows = [*document["rows"], *document["given_up"]]
    assert {row["encoding"] for row in rows} == {"bfloat16+secded", by_tensor}
    assert document["budget"] == 16.0
    assert set(document["rows"][0]["by_ber"]) == {"0.01", "0.03"}
    best = document["rows"][0]
    assert main(["plan", *quick, *both, *rates]) == 0
    printed = capsys.readouterr().out
    assert f"best: {best['encoding']} keeps {100 * best['accuracy']['estimate']:.2f} %" in printed
    assert "validation samples" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ber", "2"], "--ber: a bit error rate lies in [0, 1]"),
        (["--bits", "-1"], "--bits: expected a finite number above 0"),
        # int4 takes 4 bits a weight, and 32 for the scale of each row: 4 + 32 (16 + 16 + 3) / 512.
        (["--bits", "2"], "expected a budget of at least 6.188 bits a weight"),
        (["--candidate", "float31"], "--candidate: an encoding is one of"),
        (["--guard", "weightrange"], "--guard: a guard is one of"),
    ],
)
def test_plan_refuses_bad_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *WINES, *arguments]) == 2
    assert message in capsys.readouterr().err
