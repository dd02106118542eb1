#!/usr/bin/env python
"""Do the CUDA kernels fit a GPU's registers and shared memory?

Compiles the kernels with nvcc, which needs no GPU, and prints what each takes: registers, shared
memory and local memory, with the share of a multiprocessor's threads that can be resident at once.
The goals are no local memory, which lies in device memory, and no spilled registers.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import _arguments
from rich.console import Console
from rich.table import Table

from proact.errors import ProactError

#: In the order of HyReluMode.
MODES = ("soft", "zero", "saturate")
SOURCES = Path(__file__).resolve().parents[1] / "csrc/cuda"


@dataclass(frozen=True)
class Multiprocessor:
    """The limits of a multiprocessor, from the tables of the CUDA C++ Programming Guide."""

    threads: int
    shared_bytes: int
    blocks: int
    registers: int = 65536

    def resident(self, kernel: Kernel) -> float:
        """The share of its threads that can run a kernel at once."""
        # Registers are given to warps in units of 256, so 8 for each of their 32 threads.
        registers = -(-kernel.registers // 8) * 8 * kernel.block_threads
        fitting = min(
            self.registers // registers,
            self.threads // kernel.block_threads,
            self.blocks,
            self.shared_bytes // kernel.shared_bytes if kernel.shared_bytes else self.blocks,
        )
        return fitting * kernel.block_threads / self.threads


#: By compute capability.
MULTIPROCESSORS = {
    "75": Multiprocessor(1024, 64 << 10, 16),
    "80": Multiprocessor(2048, 164 << 10, 32),
    "90": Multiprocessor(2048, 228 << 10, 32),
}


@dataclass(frozen=True)
class Kernel:
    """What a kernel takes on one architecture.

    Attributes:
        name: without its parameters.
        architecture: compute capability without its point, such as ``"90"``.
        registers: for each thread.
        shared_bytes: static shared memory of a block.
        local_bytes: local memory of a thread, spilled registers included.
        block_threads: threads of a block.
    """

    name: str
    architecture: str
    registers: int
    shared_bytes: int
    local_bytes: int
    block_threads: int


def compiler() -> str | None:
    """The path of nvcc; None without it."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (found := shutil.which("nvcc", path=f"{home}/bin")):
            return found
    return shutil.which("nvcc")


def kernels(architecture: str) -> list[Kernel]:
    """The kernels of all sources, compiled for an architecture."""
    nvcc = compiler()
    if nvcc is None:
        raise ProactError("nvcc was not found: put it on PATH or set CUDA_HOME to its toolkit")
    with tempfile.TemporaryDirectory() as folder:
        return [
            kernel
            for source in sorted(SOURCES.glob("*.cu"))
            for kernel in _compiled(nvcc, source, architecture, Path(folder))
        ]


def _compiled(nvcc: str, source: Path, architecture: str, folder: Path) -> Iterator[Kernel]:
    command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Werror", "all-warnings"]
    ptx = folder / f"{source.stem}.ptx"
    subprocess.run([*command, "-ptx", "-o", ptx, source], check=True)
    threads = _block_threads(ptx.read_text())
    cubin = folder / f"{source.stem}.cubin"
    done = subprocess.run(
        [*command, "--resource-usage", "-cubin", "-o", cubin, source],
        check=True,
        capture_output=True,
        text=True,
    )
    yield from _parsed(done.stdout + done.stderr, architecture, threads)


def _block_threads(ptx: str) -> dict[str, int]:
    """The largest number of threads of each kernel's blocks, by its mangled name."""
    found = re.findall(r"\.entry (\w+)\(.*?\.maxntid (\d+)", ptx, re.DOTALL)
    return {name: int(threads) for name, threads in found}


def _parsed(output: str, architecture: str, threads: dict[str, int]) -> Iterator[Kernel]:
    # For each kernel: its name, then its stack frame and spills, then its registers.
    for part in output.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        stack, *spills = map(int, re.findall(r"(\d+) bytes (?:stack frame|spill)", part))
        shared = re.search(r"(\d+) bytes smem", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert registers is not None, part
        yield Kernel(
            _plain_name(name),
            architecture,
            int(registers[1]),
            int(shared[1]) if shared else 0,
            stack + sum(spills),
            threads[name],
        )


def _plain_name(mangled: str) -> str:
    """The name with its template arguments and without its parameters."""
    shown = subprocess.run(["c++filt", mangled], check=True, capture_output=True, text=True)
    name = shown.stdout.strip().removeprefix("void ").replace("proact::", "").replace("cuda::", "")
    name = re.sub(r"\(HyReluMode\)(\d)", lambda mode: MODES[int(mode[1])], name)
    return name.split("(")[0]


def make_parser() -> _arguments.Parser:
    parser = _arguments.Parser(__doc__)
    parser.add_argument(
        "--architectures",
        nargs="+",
        choices=list(MULTIPROCESSORS),
        default=["75", "90"],
        metavar="CAPABILITY",
        help=f"Compute capabilities without their point: {', '.join(MULTIPROCESSORS)}",
    )
    parser.add_json()
    return parser


def run(options: argparse.Namespace) -> None:
    found = [kernel for each in options.architectures for kernel in kernels(each)]
    table = Table("kernel", "capability", "registers", "shared bytes", "local bytes", "resident")
    for kernel in found:
        table.add_row(
            kernel.name,
            kernel.architecture,
            str(kernel.registers),
            str(kernel.shared_bytes),
            str(kernel.local_bytes),
            f"{MULTIPROCESSORS[kernel.architecture].resident(kernel):.0%}",
        )
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    local = sum(kernel.local_bytes > 0 for kernel in found)
    print(f"goal: no local memory: {'reached' if not local else f'missed by {local} kernels'}")
    _arguments.write_json(options.json, [asdict(kernel) for kernel in found])


def main(arguments: list[str] | None = None) -> int:
    return _arguments.run_script(run, make_parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
