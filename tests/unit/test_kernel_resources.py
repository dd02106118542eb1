"""Do the CUDA kernels stay within their registers and shared memory, without local memory?"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from conftest import slow

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as Python does for a script

import kernel_resources

#: The most registers of a thread, by the name of the kernel without its template arguments.
MOST_REGISTERS = {
    "flip_drawn_kernel": 96,
    "flip_all_but_drawn_kernel": 96,
    "flip_places_kernel": 64,
    "backward_kernel": 72,
    "scrub_kernel": 72,
}
OTHERS = 48


@pytest.mark.long
@pytest.mark.skipif(
    kernel_resources.compiler() is None or shutil.which("c++filt") is None,
    reason="needs nvcc and c++filt",
)
@pytest.mark.parametrize("architecture", ["75", *slow("90")])
def test_kernels_use_no_local_memory_and_few_registers(architecture: str) -> None:
    kernels = kernel_resources.kernels(architecture)
    names = {kernel.name.split("<")[0] for kernel in kernels}
    assert set(MOST_REGISTERS) < names
    assert [kernel for kernel in kernels if kernel.local_bytes] == []
    for kernel in kernels:
        assert kernel.registers <= MOST_REGISTERS.get(kernel.name.split("<")[0], OTHERS), kernel
        assert kernel.shared_bytes <= 16 << 10, kernel


def test_the_resident_share_is_that_of_nvidias_tables() -> None:
    """Limits by blocks, registers and shared memory, worked out by hand for capability 7.5."""
    seventy_five = kernel_resources.MULTIPROCESSORS["75"]

    def resident(registers: int, shared: int, threads: int) -> float:
        kernel = kernel_resources.Kernel("a", "75", registers, shared, 0, threads)
        return seventy_five.resident(kernel)

    assert resident(32, 0, 256) == 1.0
    assert resident(32, 0, 32) == 0.5  # 16 blocks
    assert resident(100, 0, 128) == 0.5  # 104 registers: 4 blocks
    assert resident(32, 16 << 10, 32) == 0.125  # 4 blocks
