"""Are folders of images read as they lie, and what is wrong with them named?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from proact import ProactError, data


def write(
    folder: Path, colours: dict[str, int], count: int, size: tuple[int, int] = (12, 8)
) -> None:
    for name, grey in colours.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), grey + number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_one_folder_is_cut_in_three(tmp_path: Path) -> None:
    write(tmp_path, {"dark": 10, "bright": 200}, 20)
    found = data.load("imagefolder", tmp_path, image_size=6)
    assert found.labels == ("bright", "dark")
    assert [len(s) for s in (found.train, found.validation, found.test)] == [26, 6, 8]
    assert found.train.images.shape[1:] == (3, 6, 6)
    means = found.train.images.mean((1, 2, 3))
    assert means[found.train.labels == 0].min() > means[found.train.labels == 1].max()
    mean, deviation = (torch.tensor(v).view(-1, 1, 1) for v in (found.mean, found.deviation))
    bytes_ = (found.test.images * deviation + mean) * 255
    torch.testing.assert_close(bytes_, bytes_.round(), atol=1e-3, rtol=0)


def test_parts_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "train", {"a": 0, "b": 100}, 10)
    write(tmp_path / "test", {"a": 30, "b": 130}, 3)
    held_out = data.load("imagefolder", tmp_path, image_size=4)
    assert [len(s) for s in (held_out.train, held_out.validation, held_out.test)] == [18, 2, 6]
    write(tmp_path / "val", {"a": 50, "b": 150}, 2)
    given = data.load("imagefolder", tmp_path, image_size=4)
    assert [len(s) for s in (given.train, given.validation, given.test)] == [20, 4, 6]


def test_the_middle_square_is_taken(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = np.zeros((4, 12, 3), np.uint8)
            pixels[:, 4:8] = 255
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.bmp")
    found = data.load("imagefolder", tmp_path, image_size=4)
    assert found.train.images.std(dim=(0, 2, 3)).max() < 1e-6
    assert found.train.images.min() > 2


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="imagefolder: expected a folder, got none"):
        data.load("imagefolder")
    with pytest.raises(ProactError, match="expected a folder with one folder per class"):
        data.load("imagefolder", tmp_path / "nowhere")
    write(tmp_path, {"only": 3}, 3)
    with pytest.raises(ProactError, match="holds 1 folders with images"):
        data.load("imagefolder", tmp_path)
    write(tmp_path, {"other": 3}, 1)
    with pytest.raises(ProactError, match="expected enough images for three splits"):
        data.load("imagefolder", tmp_path)
    with pytest.raises(ValueError, match="image_size: expected at least 1 pixel, got 0"):
        data.load("imagefolder", tmp_path, image_size=0)
    (tmp_path / "other" / "0.png").write_bytes(b"no image")
    with pytest.raises(ProactError, match="0.png cannot be read as an image"):
        data.load("imagefolder", tmp_path)
    write(tmp_path / "train", {"a": 0, "b": 100}, 10)
    with pytest.raises(ProactError, match="expected a folder test beside it"):
        data.load("imagefolder", tmp_path)
    write(tmp_path / "test", {"a": 0, "c": 100}, 2)
    with pytest.raises(ProactError, match="a class 'c' that the training images lack"):
        data.load("imagefolder", tmp_path)


def test_what_pil_would_change_silently(tmp_path: Path) -> None:
    write(tmp_path, {"dark": 10, "bright": 200}, 10)
    (tmp_path / ".cache").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / ".cache" / "x.png")
    (tmp_path / "dark" / "._0.png").write_bytes(b"no image")
    assert data.load("imagefolder", tmp_path, image_size=4).labels == ("bright", "dark")
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    deep.save(tmp_path / "dark" / "deep.png")
    with pytest.raises(ProactError, match="deep.png has pixels of mode 'I;16'"):
        data.load("imagefolder", tmp_path, image_size=4)


def test_a_turned_photograph_is_put_upright(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[:, :4] = 255  # left in the file, above when turned
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png", exif=exif)
    images = data.load("imagefolder", tmp_path, image_size=8).train.images
    assert images[:, :, :4].min() > images[:, :, 4:].max()


def test_parts_without_a_training_part_are_no_classes(tmp_path: Path) -> None:
    for part in ("test", "val"):
        write(tmp_path / part, {"a": 0, "b": 100}, 10)
    with pytest.raises(ProactError, match="a folder test: expected a folder train"):
        data.load("imagefolder", tmp_path)
