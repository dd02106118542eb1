"""Read CIFAR-10 and CIFAR-100 from their official archives in one pass, without executing code.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from proact.data import file_lookup
from proact.data.dataset import Augmentation, Data
from proact.data.normalization import Pixels, from_pixels
from proact.errors import ProactError
from proact.files import open_regular
from proact.text import short_repr, shortened

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
#: A little above the largest archive and its unpacked content, in bytes.
_MOST_PACKED, _MOST_UNPACKED = 180_000_000, 200_000_000
_BLOCK = 1 << 20


class CifarSet(NamedTuple):
    """Description of a CIFAR data set.

    Attributes:
        torchvision_class: the class that downloads the data set.
        classes: number of classes.
        mean, deviation: of the normalisation, one value per channel.
        md5: checksums of the archives by file name.
        train, test, meta: regular expressions for the names of archive members.
        labels_key, names_key: keys of labels and class names in pickled members.
        label_bytes: number of label bytes before the pixels of a binary record; the last one is the
            label.
    """

    torchvision_class: str
    classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    md5: dict[str, str]
    train: str
    test: str
    meta: str
    labels_key: str
    names_key: str
    label_bytes: int


SETS = {
    "cifar10": CifarSet(
        "CIFAR10",
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        {
            "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        },
        r"data_batch_\d(\.bin)?",
        r"test_batch(\.bin)?",
        r"batches\.meta(\.txt)?",
        "labels",
        "label_names",
        1,
    ),
    "cifar100": CifarSet(
        "CIFAR100",
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        {
            "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        },
        r"train(\.bin)?",
        r"test(\.bin)?",
        r"meta|fine_label_names\.txt",
        "fine_labels",
        "fine_label_names",
        2,
    ),
}


def load_cifar(name: str, folder: Path | None = None, download: bool = False) -> Data:
    """Load the official test part and training part; a tenth of the latter becomes validation.

    Raises:
        ProactError: files are missing or are not the official ones.
    """
    known = SETS[name]
    archives = tuple(known.md5)
    looked_in = file_lookup.candidates(name, folder)
    path = file_lookup.find(looked_in, archives)
    if path is None and download:
        looked_in = [file_lookup.download(name, known.torchvision_class, folder)]
        path = file_lookup.find(looked_in, archives)
    if path is None:
        how = (
            "put one of them there (https://www.cs.toronto.edu/~kriz/cifar.html), name its folder, "
            "or enable the download"
        )
        raise file_lookup.missing(name, looked_in, " or ".join(archives), how)
    try:
        with open_regular(path, f"an archive of {name}", _MOST_PACKED) as file:
            file_lookup.check_md5(path, file, known.md5[path.name], _MOST_PACKED)
            file.seek(0)
            train, test, labels = _read(file, known)
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        zlib.error,
        pickle.UnpicklingError,
        # pickle raises these, too, for bytes that are not a pickle.
        AttributeError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        raise ProactError(
            f"{path} is not an official archive of {name} ({shortened(str(error), 200)}): download "
            "it again"
        ) from None
    return from_pixels(
        name, train, test, labels, known.mean, known.deviation, Augmentation(4, mirror=True)
    )


_Part = tuple[Pixels, Pixels]


class _Limited:
    """A file whose content ends in an error after some number of bytes."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._left = file, most

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise ValueError("it unpacks to more bytes than the official archive")
        return block


def _read(file: BinaryIO, known: CifarSet) -> tuple[_Part, _Part, tuple[str, ...]]:
    train: dict[str, _Part] = {}
    test: list[_Part] = []
    labels: tuple[str, ...] = ()
    # Read a stream: members come in any order, and each is unpacked once, into memory only.
    unpacked: Any = _Limited(cast(BinaryIO, gzip.GzipFile(fileobj=file)), _MOST_UNPACKED)
    with tarfile.open(fileobj=unpacked, mode="r|", bufsize=_BLOCK) as archive:
        for member in archive:
            name = Path(member.name).name
            if member.size > _MOST_UNPACKED or member.issparse():
                raise ValueError(f"its member {short_repr(name)} is too large or sparse")
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            if re.fullmatch(known.train, name):
                train[name] = _part(name, content.read(), known)
            elif re.fullmatch(known.test, name):
                test.append(_part(name, content.read(), known))
            elif re.fullmatch(known.meta, name):
                labels = _labels(name, content.read(), known)
    if not train or len(test) != 1 or len(labels) != known.classes:
        raise ValueError(
            f"got {len(train)} training parts, {len(test)} test parts and {len(labels)} names"
        )
    ordered = [train.pop(name) for name in sorted(train)]
    if len(ordered) == 1:
        return ordered[0], test[0], labels
    joined = tuple(np.concatenate([part[i] for part in ordered]) for i in (0, 1))
    return (joined[0], joined[1]), test[0], labels


def _part(name: str, content: bytes, known: CifarSet) -> _Part:
    if name.endswith(".bin"):
        records = np.frombuffer(content, np.uint8).reshape(-1, known.label_bytes + _PIXELS)
        pixels, labels = records[:, known.label_bytes :], records[:, known.label_bytes - 1]
    else:
        fields = _unpickled(content)
        pixels, labels = fields["data"], np.asarray(fields[known.labels_key], np.uint8)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise ValueError(f"expected an array of bytes in {name}")
    if len(labels) != len(pixels) or not len(labels) or int(labels.max()) >= known.classes:
        raise ValueError(f"the labels of {name} do not fit")
    return pixels.reshape(-1, *_SHAPE), labels


def _labels(name: str, content: bytes, known: CifarSet) -> tuple[str, ...]:
    if name.endswith(".txt"):
        return tuple(content.decode().split())
    return tuple(str(label) for label in _unpickled(content)[known.names_key])


class _PlainUnpickler(pickle.Unpickler):
    """Builds arrays, lists, dictionaries and strings, and refuses every other class or function."""

    _ARRAYS = {  # noqa: RUF012
        ("_reconstruct", "numpy.core.multiarray"),
        ("_reconstruct", "numpy._core.multiarray"),
        ("ndarray", "numpy"),
        ("dtype", "numpy"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (name, module) not in self._ARRAYS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        if name == "_reconstruct":
            # The function to which numpy refers when it pickles an array.
            return np.empty(0).__reduce__()[0]
        return getattr(np, name)


def _unpickled(content: bytes) -> dict[str, Any]:
    # Python 2 wrote these files; its strings hold pixels and names as bytes.
    fields = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(fields, dict):
        raise ValueError(f"expected a dictionary, got {type(fields).__name__}")
    return fields
