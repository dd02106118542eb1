"""Archives in the official formats, with pixels of the test's own."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Parts = list[tuple[NDArray[np.uint8], list[int]]]


def random_parts(sizes: list[int], classes: int, seed: int = 0) -> Parts:
    """(pixels (n, 3, 32, 32), labels) for each size; every class is there where there is room."""
    generator = np.random.default_rng(seed)
    return [
        (
            generator.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8),
            [int(i) % classes for i in generator.permutation(n)],
        )
        for n in sizes
    ]


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes strings of either kind as Python 2 wrote its own, with numpy's old module names."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]  # noqa: RUF012

    def save_string(self, text: str | bytes) -> None:
        raw = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(fields: dict[str, object]) -> bytes:
    """Protocol 2, as the official archives have it."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(fields)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def cifar10_python(parts: Parts, names: list[str]) -> dict[str, bytes]:
    """Members in no order, as the official archive has them; the last part is the test part."""
    files = [f"data_batch_{i}" for i in range(1, len(parts))] + ["test_batch"]
    members = {
        f"cifar-10-batches-py/{file}": python2_pickle(
            {"data": pixels.reshape(len(labels), -1), "labels": labels, "batch_label": file}
        )
        for file, (pixels, labels) in reversed(list(zip(files, parts, strict=True)))
    }
    members["cifar-10-batches-py/batches.meta"] = python2_pickle({"label_names": names})
    members["cifar-10-batches-py/readme.html"] = b"<html>"
    return members


def cifar10_binary(parts: Parts, names: list[str]) -> dict[str, bytes]:
    files = [f"data_batch_{i}.bin" for i in range(1, len(parts))] + ["test_batch.bin"]
    members = {
        f"cifar-10-batches-bin/{file}": _records(pixels, [labels])
        for file, (pixels, labels) in reversed(list(zip(files, parts, strict=True)))
    }
    members["cifar-10-batches-bin/batches.meta.txt"] = "\n".join([*names, "", ""]).encode()
    return members


def cifar100_binary(parts: Parts, names: list[str]) -> dict[str, bytes]:
    (train, train_labels), (test, test_labels) = parts
    coarse = [19] * len(train_labels), [3] * len(test_labels)
    return {
        "cifar-100-binary/fine_label_names.txt": "\n".join(names).encode(),
        "cifar-100-binary/coarse_label_names.txt": b"all\n",
        "cifar-100-binary/test.bin": _records(test, [coarse[1], test_labels]),
        "cifar-100-binary/train.bin": _records(train, [coarse[0], train_labels]),
    }


def cifar100_python(parts: Parts, names: list[str]) -> dict[str, bytes]:
    (train, train_labels), (test, test_labels) = parts
    return {
        f"cifar-100-python/{file}": python2_pickle(
            {"data": pixels.reshape(len(labels), -1), "fine_labels": labels, "coarse_labels": [0]}
        )
        for file, pixels, labels in (("train", train, train_labels), ("test", test, test_labels))
    } | {"cifar-100-python/meta": python2_pickle({"fine_label_names": names})}


def _records(pixels: NDArray[np.uint8], labels: list[list[int]]) -> bytes:
    columns = np.asarray(labels, np.uint8).T
    return np.concatenate([columns, pixels.reshape(len(pixels), -1)], 1).tobytes()


def idx(array: NDArray[np.uint8]) -> bytes:
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def write_idx(folder: Path, files: dict[str, NDArray[np.uint8]], packed: bool) -> dict[str, str]:
    """The files, and the checksums of what they hold unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return {name: md5(idx(array)) for name, array in files.items()}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
