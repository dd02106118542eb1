"""Does a campaign of the command line keep and show hostile names of variants and files?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import slow
from proact.cli import main
from proact.config.reading import read_experiment
from proact.yaml_text import dump

ROOT = Path(__file__).parents[2]
OWN = ROOT / "docs" / "own_network.py"
VARIANTS = [
    *(
        "relu[half]",
        "[/nope]",
        ":smile:",
        "$x$ $y$",
        "_hidden",
        "a\nb",
        "\x1b[31mred",
        "\u202eevil",
    ),
    *("=1+1", "a|`b`", "</td>", "1e-6", "null", "网络", "../../up", "网" * 100, "x" * 100_000),
]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "hostile.yaml"
    plain = {
        "model": f"{OWN}:network",
        "data": f"{OWN}:data",
        "ber": [1e-2, 1e-1],
        "trials": 2,
        "images_per_trial": "all",
        "sweeps": ["bit"],
        "sweep_trials": 100,
        "workers": 1,
        "variants": {name: {"method": "ranger"} for name in VARIANTS} | {"relu": "unprotected"},
    }
    file.write_text(
        dump({key: value for key, value in plain.items() if value is not None}), "utf-8"
    )
    return file


@pytest.mark.long
def test_a_campaign(experiment: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = experiment.parent / "out [/x] :smile: \u202e"
    assert main(["campaign", str(experiment), "--out", str(out), "--report"]) == 0
    shown = capfd.readouterr()
    for text in (shown.out, shown.err):
        assert all(sign.isprintable() or sign in "\n\t\xa0" for sign in text)
    for name in ("relu[half]", "[/nope]", ":smile:", "a\\nb", "\\x1b[31mred", "\\u202eevil"):
        assert name in shown.out
        assert f"{name}: protect" in shown.err
    assert len(shown.out) < 100_000
    assert len(shown.err) < 20_000
    repeated = read_experiment(out / "experiment.yaml")
    assert list(repeated.variants) == [*VARIANTS, "relu"]
    assert len(list((out / "models").iterdir())) == len(VARIANTS)
    assert main(["report", str(out), "--baseline", "[/nope]", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["html"] == str(out / "report.html")
    assert main(["report", str(out), "--baseline", "\x1b[2J" + 100_000 * "y"]) == 2
    message = capfd.readouterr().err
    assert message.startswith("error: a variant is one of relu[half], [/nope], :smile:")
    assert "\x1b" not in message
    assert len(message) < 3000


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["ascii", *slow("latin-1", "utf-8")])
def test_a_terminal_that_lacks_characters(encoding: str, tmp_path: Path) -> None:
    """The store has a name that is no UTF-8, as a file system may have it."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9 \xe7\xbd\x91"
    command = [sys.executable, "-m", "proact", "campaign", "--model", f"{OWN}:network"]
    command += ["--data", f"{OWN}:data", "--ber", "1e-2", "--trials", "2", "--variant", "relu"]
    done = subprocess.run(
        [*map(os.fsencode, command), b"--images-per-trial", b"all", b"--report", b"--out", folder],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr.decode(encoding)
    expected = "caf\\udce9 网".encode(encoding, "backslashreplace")
    assert b"rows: " in done.stdout
    assert expected in done.stdout
    assert os.path.exists(folder + b"/report.html")


def test_a_name_that_cannot_be_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "half.yaml"
    file.write_text('variants: {"half \\ud800": unprotected}\n')
    assert main(["campaign", str(file), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "the name of a variant has a lone surrogate, which UTF-8 cannot store" in message
    assert not (tmp_path / "out").exists()
