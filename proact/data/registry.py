"""The data sets that have a name."""

from __future__ import annotations

from pathlib import Path

from proact.data.cifar import SETS as CIFAR_SETS
from proact.data.cifar import load_cifar
from proact.data.dataset import Data
from proact.data.digits import load_digits
from proact.data.image_folder import load_image_folder
from proact.data.mnist import SETS as IDX_SETS
from proact.data.mnist import load_idx
from proact.errors import unknown

_IMAGE_FOLDER = "imagefolder"


def load(
    name: str = "digits",
    folder: str | Path | None = None,
    *,
    download: bool = False,
    image_size: int = 224,
) -> Data:
    """A data set by name, decoded once, normalised, split deterministically.

    Args:
        name: ``"digits"`` (comes with scikit-learn), ``"fashion-mnist"``, ``"mnist"``,
            ``"cifar10"``, ``"cifar100"`` (the official files), or ``"imagefolder"`` (a folder for
            each class).
        folder: where the files are, in it or in a sub-folder of the data set's name. Unless given:
            the environment variable ``PROACT_DATA``, where Debian's packages put them, and
            ``~/.cache/proact``.
        download: fetch files that are missing, through torchvision, into ``folder`` or the cache.
            Nothing is fetched unless asked for.
        image_size: height and width of an ``imagefolder``'s images in pixels.

    Returns:
        Training, validation and test images in float32. The test part is the official one;
        validation is a tenth of every class of the training part, the same at every call.

    Raises:
        ValueError: an unknown name. ProactError: files that are missing (where they were looked
            for, and how to get them) or are not the official ones.
    """
    if name not in names():
        raise unknown("data set", name, names())
    place = None if folder is None else Path(folder).expanduser()
    if name in CIFAR_SETS:
        return load_cifar(name, place, download)
    if name in IDX_SETS:
        return load_idx(name, place, download)
    if name == _IMAGE_FOLDER:
        return load_image_folder(place, image_size)
    return load_digits()


def names() -> list[str]:
    """What `load` takes."""
    return ["digits", *IDX_SETS, *CIFAR_SETS, _IMAGE_FOLDER]
