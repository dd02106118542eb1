"""Read MNIST and Fashion-MNIST: four IDX files each, compressed or not.

Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits"; H. Xiao, K. Rasul,
R. Vollgraf, "Fashion-MNIST", arXiv 1708.07747.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from proact.data import file_lookup
from proact.data.dataset import Augmentation, Data
from proact.data.normalization import Pixels, from_pixels
from proact.errors import ProactError
from proact.files import open_regular


class IdxSet(NamedTuple):
    """Description of an MNIST-like data set.

    Attributes:
        torchvision_class: the class that downloads the data set.
        system: folders in which system packages install it.
        how: advice for missing files.
        labels: names of the classes.
        mean, deviation: of the normalisation of pixels in [0, 1].
        augmentation: allowed changes of training images.
        md5: checksums of the unpacked files by name.
    """

    torchvision_class: str
    system: tuple[str, ...]
    how: str
    labels: tuple[str, ...]
    mean: float
    deviation: float
    augmentation: Augmentation
    md5: dict[str, str]


#: A little above the largest file, the training images, unpacked.
_MOST_BYTES = 48_000_000
_PARTS = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)

SETS = {
    "mnist": IdxSet(
        "MNIST",
        (),
        "put its four files there, name their folder, or enable the download",
        tuple("0123456789"),
        0.1307,
        0.3081,
        Augmentation(shift=2),  # a mirrored digit is not a digit
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion-mnist": IdxSet(
        "FashionMNIST",
        ("/usr/share/datasets/fashion-mnist",),
        "on Debian, apt-get install dataset-fashion-mnist; else name a folder with its four files, "
        "or enable the download",
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        0.2860,
        0.3530,
        Augmentation(shift=2, mirror=True),
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}


def load_idx(name: str, folder: Path | None = None, download: bool = False) -> Data:
    """Load the official test part and training part; a tenth of the latter becomes validation.

    Raises:
        ProactError: files are missing or are not the official ones.
    """
    known = SETS[name]
    raw = f"{known.torchvision_class}/raw"  # the sub-folder of torchvision

    def folders() -> list[Path]:
        found = file_lookup.candidates(name, folder, known.system)
        return [place for root in found for place in (root, root / raw)]

    if download and _file(folders(), _PARTS[0][0]) is None:
        file_lookup.download(name, known.torchvision_class, folder)
    parts: list[tuple[Pixels, Pixels]] = []
    for images_name, labels_name in _PARTS:
        images, labels = (_read(name, known, folders(), f) for f in (images_name, labels_name))
        parts.append((images[:, None], labels))
    train, test = parts
    return from_pixels(
        name, train, test, known.labels, (known.mean,), (known.deviation,), known.augmentation
    )


def _file(folders: list[Path], name: str) -> Path | None:
    return file_lookup.find(folders, (f"{name}.gz", name))


def _read(name: str, known: IdxSet, folders: list[Path], file_name: str) -> Pixels:
    path = _file(folders, file_name)
    if path is None:
        raise file_lookup.missing(name, folders, f"{file_name}.gz (or unpacked)", known.how)
    with open_regular(path, f"a file of {name}", _MOST_BYTES) as packed:
        file = gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed
        try:
            file_lookup.check_md5(path, cast(BinaryIO, file), known.md5[file_name], _MOST_BYTES)
            file.seek(0)
            content = file.read(_MOST_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise ProactError(f"{path} cannot be unpacked ({error}): download it again") from None
    return _decoded(path, content)


def _decoded(path: Path, content: bytes) -> Pixels:
    """Decode an IDX file of bytes.

    The format is: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, each
    dimension as a big-endian 32-bit integer, the data.
    """
    dimensions = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    start = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if not 1 <= dimensions <= 3 or len(content) - start != math.prod(shape):
        raise ProactError(f"{path} is not an IDX file of bytes: download it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
