"""Load data sets by name."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proact.errors import unknown
from proact.text import short_repr

if TYPE_CHECKING:
    from proact.data.dataset import Data
    from proact.data.split import Split

#: The module that reads each data set. Modules load when they are needed, so that names can be
#: listed without loading torch.
_MODULES = {
    "digits": "digits",
    "mnist": "mnist",
    "fashion-mnist": "mnist",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "imagefolder": "image_folder",
}

_FOLDER_SIZE = 224  # pixels


def load(
    name: str = "digits",
    folder: str | Path | None = None,
    *,
    download: bool = False,
    image_size: int | None = None,
    training_images: int | None = None,
    test_images: int | None = None,
) -> Data:
    """Load a data set by name: decoded once, normalised, and split deterministically.

    Args:
        name: ``"digits"`` (comes with scikit-learn), ``"fashion-mnist"``, ``"mnist"``,
            ``"cifar10"``, ``"cifar100"`` (the official files), or ``"imagefolder"`` (a folder for
            each class).
        folder: holds the files, directly or in a sub-folder with the data set's name. None searches
            the folder of the environment variable ``PROACT_DATA``, the folders of Debian's packages
            and ``~/.cache/proact``.
        download: whether to download missing files through torchvision into ``folder`` or the
            cache.
        image_size: height and width of the images in pixels. Those of an ``imagefolder`` are scaled
            and cropped (None means 224), those of the other sets are surrounded by black (None
            leaves them as they are).
        training_images, test_images: the most training and test images, the same share of every
            class (None means all). A campaign estimates the accuracy on these test images alone.

    Returns:
        Training, validation and test images in float32. The test part is the official one if there
        is one. Validation is then a tenth of every class of the training part, unless an
        ``imagefolder`` has its own. The split is the same in every call.

    Raises:
        ValueError: the name is unknown; a size or a number of images is no integer of at least 1;
            ``image_size`` is smaller than images that get a border; a class would have no image.
        ProactError: files are missing or are not the official ones. The message names the searched
            folders and explains how to get the files.
    """
    if name not in _MODULES:
        raise unknown("data set", name, _MODULES)
    _check_at_least_1("image_size", image_size, "pixel")
    _check_at_least_1("training_images", training_images, "image")
    _check_at_least_1("test_images", test_images, "image")
    place = None if folder is None else Path(folder).expanduser()
    module: Any = import_module(f"proact.data.{_MODULES[name]}")
    if name == "digits":
        loaded: Data = module.load_digits()
    elif name == "imagefolder":
        loaded = module.load_image_folder(place, _FOLDER_SIZE if image_size is None else image_size)
    elif name.startswith("cifar"):
        loaded = module.load_cifar(name, place, download)
    else:
        loaded = module.load_idx(name, place, download)
    if name != "imagefolder" and image_size is not None:
        padding: Any = import_module("proact.data.padding")
        loaded = padding.padded(loaded, image_size)
    return replace(
        loaded,
        train=_limited(name, loaded.train, "training_images", training_images),
        test=_limited(name, loaded.test, "test_images", test_images),
    )


def _limited(name: str, split: Split, option: str, most: int | None) -> Split:
    """At most this many images of a part of a data set, the same share of every class."""
    if most is None:
        return split
    dataset: Any = import_module("proact.data.dataset")
    subset: Split = split.take(dataset.stratified_subset(split, most))
    missing = set(split.labels.tolist()) - set(subset.labels.tolist())
    if missing:
        raise ValueError(
            f"{option}: expected enough for every class of {name}, got {most}, which leaves "
            f"{len(missing)} of its classes without an image"
        )
    return subset


def _check_at_least_1(name: str, value: Any, unit: str) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (is_count or value is None):
        raise ValueError(f"{name}: expected at least 1 {unit}, got {short_repr(value)}")


def names() -> list[str]:
    """Return the names that `load` accepts."""
    return list(_MODULES)
