"""Does the main job run as a user runs it: results, resuming, and one sentence for bad input?"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from proact.cli import main

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ber_campaign.py"
sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script in that folder
OPTIONS = importlib.import_module("ber_campaign").OPTIONS
QUICK = ["--ber", "1e-4,1e-3", "--trials", "5", "--variant", "relu", "--variant", "ranger"]


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120"},
    )


def run_here(*arguments: str | Path) -> int:
    """The same in this process: starting one takes longer than refusing bad input."""
    return main(["campaign", *OPTIONS, *map(str, arguments)])


def tables(output: str) -> str:
    return "\n".join(
        line for line in output.splitlines() if not line.startswith(("rows:", "repeat:", "report:"))
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("campaign") / "out"
    done = run(*QUICK, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_it_leaves_a_table_a_store_and_two_plots(finished: tuple[Path, str]) -> None:
    folder, output = finished
    assert re.search(r"relu .*1e-4 .* to .* 5 ", output)
    assert re.search(r"ranger .*1e-4 .* to .* 5 ", output)
    assert re.search(r"ranger .*4 .*16 .*0\.05 .*9\d\.\d\d", output), "what protection costs"
    assert (folder / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (folder / "accuracy.svg").read_bytes()
    with closing(sqlite3.connect(folder / "rows.sqlite")) as reader:
        assert reader.execute("SELECT count(*) FROM row").fetchone() == (2 * 2 * 5,)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_same_seed_same_table(
    finished: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run_here(*QUICK, "--out", tmp_path) == 0
    again = capsys.readouterr().out
    assert tables(again).replace(str(tmp_path), "") == tables(finished[1]).replace(
        str(finished[0]), ""
    )
    assert run_here(*QUICK, "--out", tmp_path, "--seed", "1") == 0
    assert tables(capsys.readouterr().out) != tables(again)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_the_same_table(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    many = [*QUICK, "--trials", "300"]
    command = [sys.executable, str(SCRIPT), *many, "--out", str(tmp_path)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    store = tmp_path / "rows.sqlite"
    deadline = time.monotonic() + 120
    rows = 0
    while rows < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
        if store.exists():
            with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as reader:
                try:
                    (rows,) = reader.execute("SELECT count(*) FROM row").fetchone()
                except sqlite3.OperationalError:
                    continue  # the schema is being written
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 10 <= rows < 1200
    resumed = run(*QUICK, "--out", tmp_path)
    assert tables(resumed.stdout).replace(str(tmp_path), "") == tables(finished[1]).replace(
        str(finished[0]), ""
    )


def test_help_explains_every_flag_with_its_unit() -> None:
    text = run("--help").stdout
    for flag in (
        "--data",
        "--model",
        "--variant",
        "--ber",
        "--encoding",
        "--trials",
        "--confidence",
        "--seed",
        "--out",
    ):
        assert flag in text
    text = " ".join(text.split())
    for unit in ("probabilities per stored bit", "(count)", "probability in (0, 1)"):
        assert unit in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ber", "1.5"], "[0, 1]"),
        (["--ber", "nan"], "nan"),
        (["--ber", "often"], "often"),
        (["--variant", "relu", "--variant", "magic"], "'magic'"),
        (["--variant", "relu", "--variant", "relu"], "expected distinct variants"),
        (["--variant", "ranger:mode"], "name=value"),
        (["--variant", "ranger:decay=1"], "got 'decay'"),
        (["--encoding", "int9"], "'int9'"),
        (["--encoding", "float64"], "float64"),
        (["--data", "letters"], "'letters'"),
        (["--data", "cifar1O"], "did you mean 'cifar10'"),
        (["--data", "mnist", "--data-folder", "/nowhere"], "/nowhere"),
        (["--data", "nothing.py:data"], "no file nothing.py"),
        (["--model", "os:nothing"], "nothing named 'nothing'"),
        (["--model", "os:sep"], "torch.nn.Module"),
        (["--model", "resnet9000"], "'resnet9000'"),
        (["--trials", "0"], "--trials"),
        (["--trials", "5000000000"], "--trials"),
        (["--variant", "ranger:mode=bogus"], "'bogus'"),
        (["--variant", "proact:seed=x"], "seed"),
        (["--variant", "proact:decays=(1.0,-0.1)"], "-0.1"),
        (["--confidence", "95"], "--confidence"),
        (["--seed", "-1"], "--seed"),
        (["--threads", "0"], "--threads"),
        (["--speed", "11"], "--speed"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*arguments, "--out", tmp_path / "out") == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].count("error:") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_foreign_file_in_place_of_the_store_is_kept(tmp_path: Path) -> None:
    (tmp_path / "rows.sqlite").write_text("my notes")
    failed = run(*QUICK, "--out", tmp_path)
    assert failed.returncode == 2
    assert "not a proact store" in failed.stderr
    assert (tmp_path / "rows.sqlite").read_text() == "my notes"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.sqlite"]


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run_here(*QUICK, "--out", tmp_path / "file" / "below") == 2
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "accuracy.png").mkdir()
    assert run_here(*QUICK, "--out", tmp_path) == 2
    assert "accuracy.png" in capsys.readouterr().err
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert run_here(*QUICK, "--out", tmp_path) == 2


def test_an_unknown_isa_is_a_sentence() -> None:
    failed = subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PROACT_ISA": "mmx"},
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: PROACT_ISA is 'mmx'")


@pytest.mark.slow
def test_margins_images_and_workers(finished: tuple[Path, str], tmp_path: Path) -> None:
    quick = ["--ber", "1e-3", "--margin", "0.05", "--images-per-trial", "16", "--variant", "relu"]
    here = run(*quick, "--out", tmp_path / "a")
    assert here.returncode == 0, here.stderr
    assert "16 test images per trial" in here.stdout
    spread = run(*quick, "--out", tmp_path / "b", "--workers", "2")
    assert tables(spread.stdout) == tables(here.stdout)
    for bad, words in (
        (["--margin", "0"], "--margin: expected a finite number above 0"),
        (["--images-per-trial", "few"], "--images-per-trial: expected a number"),
        (["--workers", "0"], "--workers: expected an integer of at least 1"),
    ):
        done = run(*QUICK, *bad, "--out", tmp_path / "c")
        assert done.returncode == 2
        assert words in done.stderr


@pytest.mark.slow
def test_a_dask_scheduler_runs_it(tmp_path: Path) -> None:
    quick = ["--ber", "1e-3", "--margin", "0.05", "--images-per-trial", "16", "--variant", "relu"]
    here = run(*quick, "--out", tmp_path / "a")
    cluster = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert cluster.stdout is not None
    try:
        address = cluster.stdout.readline().strip()
        away = run(*quick, "--out", tmp_path / "b", "--scheduler", address)
    finally:
        cluster.communicate("\n", timeout=60)
    assert away.returncode == 0, away.stderr
    assert tables(away.stdout) == tables(here.stdout)
    nobody = run(*quick, "--out", tmp_path / "c", "--scheduler", "tcp://127.0.0.1:1")
    assert nobody.returncode == 2
    assert "no Dask scheduler at tcp://127.0.0.1:1" in nobody.stderr


_CLUSTER = """
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        input()
"""
