"""Do the tests of a GPU ask proact for what it has? They run on host memory here.

Otherwise the first machine with a GPU would be the first to run them at all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
#: These ask for what only a GPU has: graphs, work that is not done yet, memory of its own.
ON_A_GPU_ALONE = (
    "captured_graph",
    "autocast",
    "waits_for_the_gpu",
    "used_up",
    "does_not_wait",
    "cuda_graph",
)


@pytest.mark.long
@pytest.mark.parametrize("name", ["test_cuda.py", "test_cuda_sweeps.py"])
def test_the_tests_of_a_gpu_pass_on_host_memory(name: str, module_with_kernels: ModuleType) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "host_gpu", "-m", "cuda", str(HERE / name)]
    chosen = " and ".join(f"not {part}" for part in ON_A_GPU_ALONE)
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [*command, "-k", chosen, "-p", "no:cacheprovider"],
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout.replace("1 skipped", "", 1)  # one test needs two GPUs
