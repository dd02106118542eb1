"""Load the user's images from one folder per class."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from proact.data.dataset import (
    HELD_OUT,
    TEST_AND_VALIDATION,
    Augmentation,
    Data,
    stratified_parts,
)
from proact.data.memory import check_memory
from proact.data.normalization import normalised
from proact.data.split import Split
from proact.errors import ProactError
from proact.files import open_regular
from proact.text import short_repr, shortened

# The values of ImageNet, with which models for photographs are usually trained.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Pillow chooses the format by content, and would start Ghostscript for EPS in a file *.png.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MOST_BYTES, _MOST_PIXELS = 1 << 28, 1 << 26
# Modes with at most 8 bits per channel; PIL clips the others at 255 when it converts them.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"}
_VALIDATION_NAMES = ("validation", "val", "valid")


def load_image_folder(folder: Path | None, image_size: int) -> Data:
    """Load ``folder/<class>/<image>``, or ``folder/train/<class>/<image>`` and its siblings.

    The siblings of ``train`` are ``test`` and, optionally, ``validation`` (``val``). Without
    ``train``, every class is split into 65 % train, 15 % validation and 20 % test. Without
    ``validation``, a tenth of every class of ``train`` is held out.

    Images are BMP, GIF, JPEG, PNG, PPM, TIFF or WebP files of at most 2^26 pixels. Classes are
    numbered in the order of their names. The shorter side of an image is scaled to ``image_size``
    pixels, and the central square is cropped, converted to RGB and normalised like ImageNet.

    Args:
        folder: the folder.
        image_size: height and width of the images in pixels, at least 1.

    Raises:
        ValueError: no folder.
        ProactError: the folder has another structure, too few images, or unreadable images.
    """
    if folder is None:
        raise ValueError("imagefolder: expected a folder, got none")
    if not folder.is_dir():
        raise ProactError(f"imagefolder: expected a folder with one folder per class, got {folder}")
    train_folder = folder / "train"
    labels = tuple(
        sorted(p.name for p in _folders(train_folder if train_folder.is_dir() else folder))
    )
    if len(labels) < 2:
        raise ProactError(
            f"{folder} holds {len(labels)} folders with images: expected at least two classes "
            "(folder/<class>/<image>, or folder/train/<class>/<image> beside folder/test)"
        )

    def part(place: Path) -> Split:
        return _read(place, labels, image_size)

    reserved = sorted({*labels} & {"test", *_VALIDATION_NAMES})
    if not train_folder.is_dir() and reserved:
        raise ProactError(f"{folder} has a folder {reserved[0]}: expected a folder train beside it")
    if not train_folder.is_dir():
        whole = part(folder)
        test, validation, train = stratified_parts(whole.labels, TEST_AND_VALIDATION, seed=0)
        if not all(map(len, (test, validation, train))):
            raise ProactError(
                f"expected enough images for three splits in {folder}, got {len(whole)}"
            )
        return _data(folder, labels, *(whole.take(i) for i in (train, validation, test)))
    if not (folder / "test").is_dir():
        raise ProactError(f"{folder} has a folder train: expected a folder test beside it")
    training = part(train_folder)
    named = [folder / name for name in _VALIDATION_NAMES if (folder / name).is_dir()]
    if named:
        return _data(folder, labels, training, part(named[0]), part(folder / "test"))
    held_out, rest = stratified_parts(training.labels, (HELD_OUT,), seed=0)
    if not len(held_out):
        raise ProactError(
            f"expected enough images to hold some out in {train_folder}, got {len(training)}"
        )
    return _data(
        folder, labels, training.take(rest), training.take(held_out), part(folder / "test")
    )


def _data(
    folder: Path, labels: tuple[str, ...], train: Split, held_out: Split, test: Split
) -> Data:
    how = Augmentation(train.images.shape[-1] // 8, mirror=True)
    name = folder.resolve().name
    return Data(name, train, held_out, test, len(labels), labels, _MEAN, _DEVIATION, how)


def _folders(place: Path) -> Iterator[Path]:
    return (
        path
        for path in place.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(_images(path))
    )


def _images(place: Path) -> Iterator[Path]:
    return (
        path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in _SUFFIXES and not path.is_dir() and not path.name.startswith(".")
    )


def _read(place: Path, labels: tuple[str, ...], size: int) -> Split:
    unknown = sorted(path.name for path in _folders(place) if path.name not in labels)
    if unknown:
        raise ProactError(
            f"{place} has a class {short_repr(unknown[0])} that the training images lack"
        )
    files = [(p, n) for n, label in enumerate(labels) for p in _images(place / label)]
    if not files:
        raise ProactError(f"{place} holds no images")
    check_memory(f"the {len(files)} images in {place}", len(files), 3, size, size)
    images = torch.empty(len(files), 3, size, size)
    for index, (path, _) in enumerate(files):
        images[index] = _decoded(path, size)
    return Split(images, torch.tensor([label for _, label in files]))


def _decoded(path: Path, size: int) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    with open_regular(path, "an image", _MOST_BYTES) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked below
        try:
            with Image.open(file, formats=_FORMATS) as image:
                if image.mode not in _MODES:
                    raise ProactError(
                        f"{path} has pixels of mode {image.mode!r}: expected 8 bits per channel"
                    )
                if image.width * image.height > _MOST_PIXELS:
                    raise ProactError(
                        f"{path} has {image.width:,} x {image.height:,} pixels: expected at most "
                        f"{_MOST_PIXELS:,}"
                    )
                upright = ImageOps.exif_transpose(image).convert("RGB")
                square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
        except ProactError:
            raise
        except UnidentifiedImageError:
            raise ProactError(
                f"{path} cannot be read as an image: expected {', '.join(_FORMATS[:-1])} or "
                f"{_FORMATS[-1]}"
            ) from None
        except Exception as error:  # damaged files make decoders raise almost anything
            reason = shortened(" ".join(f"{type(error).__name__}: {error}".split()), 200)
            raise ProactError(f"{path} cannot be read as an image ({reason})") from None
    pixels = np.asarray(square, np.uint8).transpose(2, 0, 1)[None]
    return normalised(
        np.ascontiguousarray(pixels), torch.zeros(1, dtype=torch.int64), _MEAN, _DEVIATION
    )[0]
