"""The data sets that have a name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proact.errors import unknown

if TYPE_CHECKING:
    from proact.data.dataset import Data

#: By name, the module that reads the data set. Modules load when they are needed, so that names can
#: be listed without waiting for torch.
_MODULES = {
    "digits": "digits",
    "mnist": "mnist",
    "fashion-mnist": "mnist",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "imagefolder": "image_folder",
}


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
    if name not in _MODULES:
        raise unknown("data set", name, _MODULES)
    place = None if folder is None else Path(folder).expanduser()
    module: Any = import_module(f"proact.data.{_MODULES[name]}")
    if name == "digits":
        loaded: Data = module.load_digits()
    elif name == "imagefolder":
        loaded = module.load_image_folder(place, image_size)
    elif name.startswith("cifar"):
        loaded = module.load_cifar(name, place, download)
    else:
        loaded = module.load_idx(name, place, download)
    return loaded


def names() -> list[str]:
    """What `load` takes."""
    return list(_MODULES)
