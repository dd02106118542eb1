"""Does the wheel work where nothing else of this project is?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from built import Installed, distributions, installed_wheel  # noqa: F401

import proact

pytestmark = pytest.mark.packaging

NATIVE_CALL = """
import json
import pathlib
import proact
import torch

weights = torch.zeros(1000)
flips = proact.ops.flip_bits_(weights, 0.01, seed=1, trial=2)
ones = sum(bin(word & 0xFFFFFFFF).count("1") for word in weights.view(torch.int32).tolist())
print(json.dumps({
    "package": str(pathlib.Path(proact.__file__).parent),
    "build": proact.build_info(),
    "flips": flips,
    "ones": ones,
}))
"""


def test_it_loads_its_native_module_and_flips(
    installed_wheel: Installed,  # noqa: F811
    tmp_path: Path,
) -> None:
    done = installed_wheel.run("python", "-c", NATIVE_CALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["package"]).is_relative_to(installed_wheel.environment)
    assert told["build"]["version"] == proact.__version__
    assert told["build"]["compiler"]
    assert told["build"]["isa"] in told["build"]["isas"]
    assert told["build"]["cuda"] is None
    # 32,000 bits at 0.01: a count that is off by ten standard deviations is no chance.
    assert told["flips"] == told["ones"] == pytest.approx(320, abs=180)


def test_the_command_verifies_the_sampler(
    installed_wheel: Installed,  # noqa: F811
    tmp_path: Path,
) -> None:
    done = installed_wheel.run("proact", "verify", "--trials", "50", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_tells_what_is_installed(
    installed_wheel: Installed,  # noqa: F811
    tmp_path: Path,
) -> None:
    done = installed_wheel.run("proact", "info", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert proact.__version__ in done.stdout
    json.loads(done.stdout)
