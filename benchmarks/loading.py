#!/usr/bin/env python
"""How long does CIFAR-10 take to load from its archive, and how much memory does it take?

Goals: under 5 s, and a peak of at most twice the size of the returned tensors. Unless the official
archive is given, the script writes one of the same format and size, with noise that compresses as
little as photographs do.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import _arguments
import _process_memory
import numpy as np

from proact import data
from proact.data import cifar

ARCHIVE = "cifar-10-binary.tar.gz"
BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
IMAGES_PER_BATCH = 10_000


def run(options: argparse.Namespace) -> None:
    if options.data_folder is not None:
        report(options.data_folder, "official archive")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_archive(Path(folder))
        report(Path(folder), "archive of noise")


def write_archive(folder: Path) -> None:
    """Writes a stand-in for the official archive and registers its checksum."""
    generator = np.random.default_rng(0)
    with tarfile.open(folder / ARCHIVE, "w:gz", compresslevel=6) as archive:
        for name in BATCHES:
            noise = generator.normal(120, 60, (IMAGES_PER_BATCH, 3073))
            records = noise.clip(0, 255).astype(np.uint8)
            records[:, 0] = np.arange(IMAGES_PER_BATCH) % 10
            add(archive, name, records.tobytes())
        add(archive, "batches.meta.txt", "\n".join(f"class{i}" for i in range(10)).encode())
    official = cifar.SETS["cifar10"]
    digest = hashlib.md5((folder / ARCHIVE).read_bytes(), usedforsecurity=False).hexdigest()
    cifar.SETS["cifar10"] = official._replace(md5={ARCHIVE: digest})


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def report(folder: Path, source: str) -> None:
    before = _process_memory.resident_bytes()
    _process_memory.reset_peak()
    start = time.perf_counter()
    images = data.load("cifar10", folder)
    seconds = time.perf_counter() - start
    added = _process_memory.peak_bytes() - before
    splits = (images.train, images.validation, images.test)
    returned = sum(
        tensor.numel() * tensor.element_size()
        for split in splits
        for tensor in (split.images, split.labels)
    )
    print(
        f"{source}: {seconds:.1f} s (goal: under 5 s); peak {added / returned:.2f} times the "
        f"{returned / 2**20:.0f} MiB that are returned (goal: at most 2)"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = _arguments.Parser(__doc__)
    parser.add_argument(
        "--data-folder", type=Path, metavar="FOLDER", help="Folder of the official archive"
    )
    return _arguments.run_script(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
