"""Are the named data sets read as published, and refused when they are something else?"""

from __future__ import annotations

import pickle
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import (
    Parts,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    md5,
    python2_pickle,
    random_parts,
    write_idx,
    write_tar,
)
from torch import Tensor

from proact import ProactError, data
from proact.data import Data, cifar, mnist

Members = Callable[[Parts, list[str]], dict[str, bytes]]
CIFAR: list[tuple[str, str, Members, int]] = [
    ("cifar10", "cifar-10-python.tar.gz", cifar10_python, 10),
    ("cifar10", "cifar-10-binary.tar.gz", cifar10_binary, 10),
    ("cifar100", "cifar-100-python.tar.gz", cifar100_python, 100),
    ("cifar100", "cifar-100-binary.tar.gz", cifar100_binary, 100),
]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data sets of the machine's own."""
    monkeypatch.delenv("PROACT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def parts_for(classes: int) -> Parts:
    sizes = [20 * classes] * (5 if classes == 10 else 1) + [2 * classes]
    return random_parts(sizes, classes)


def trust(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the archive were the official one."""
    known = cifar.SETS[name]
    changed = known._replace(md5={**known.md5, path.name: md5(path.read_bytes())})
    monkeypatch.setitem(cifar.SETS, name, changed)


def write_cifar(
    folder: Path, case: tuple[str, str, Members, int], monkeypatch: pytest.MonkeyPatch
) -> tuple[Parts, list[str]]:
    name, file, members, classes = case
    folder.mkdir(parents=True, exist_ok=True)
    parts, names = parts_for(classes), [f"class{i}" for i in range(classes)]
    write_tar(folder / file, members(parts, names))
    trust(folder / file, name, monkeypatch)
    return parts, names


def pixels_of(images: Tensor, found: Data) -> Tensor:
    """Back to bytes."""
    mean, deviation = (torch.tensor(v).view(-1, 1, 1) for v in (found.mean, found.deviation))
    return ((images * deviation + mean) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("case", CIFAR, ids=lambda case: case[1])
def test_cifar_archives(
    case: tuple[str, str, Members, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, names = write_cifar(tmp_path, case, monkeypatch)
    found = data.load(case[0], tmp_path)
    classes = case[3]
    assert (found.name, found.num_classes, found.labels) == (case[0], classes, tuple(names))
    test_pixels, test_labels = parts[-1]
    assert np.array_equal(pixels_of(found.test.images, found).numpy(), test_pixels)
    assert found.test.labels.tolist() == test_labels
    train_pixels = np.concatenate([pixels for pixels, _ in parts[:-1]])
    train_labels = [label for _, labels in parts[:-1] for label in labels]
    held_out = torch.bincount(found.validation.labels, minlength=classes).tolist()
    assert held_out == [train_labels.count(label) // 10 for label in range(classes)]
    together = torch.cat([found.train.images, found.validation.images])
    labels = torch.cat([found.train.labels, found.validation.labels]).tolist()
    given = sorted((p.tobytes(), n) for p, n in zip(train_pixels, train_labels, strict=True))
    rows = zip(pixels_of(together, found), labels, strict=True)
    assert sorted((p.numpy().tobytes(), label) for p, label in rows) == given


def test_the_same_pixels_are_the_same_data_in_either_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for number, case in enumerate(CIFAR[:2]):
        write_cifar(tmp_path / str(number), case, monkeypatch)
        digests.add(data.load("cifar10", tmp_path / str(number)).digest)
    assert len(digests) == 1


def test_a_pickle_that_calls_something_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "called",)

    members = cifar10_python(parts_for(10), ["a"] * 10)
    members["cifar-10-batches-py/test_batch"] = pickle.dumps({"data": Evil(), "labels": [0]}, 2)
    path = tmp_path / "cifar-10-python.tar.gz"
    write_tar(path, members)
    trust(path, "cifar10", monkeypatch)
    with pytest.raises(ProactError, match="not an official archive of cifar10 .it refers to"):
        data.load("cifar10", tmp_path)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cifar-10-batches-py/batches.meta": None}, "0 names"),
        ({"cifar-10-batches-py/test_batch": None}, "0 test parts"),
        ({"cifar-10-batches-py/test_batch": b"junk"}, "cifar-10-python.tar.gz is not an official"),
        (
            {"cifar-10-batches-py/test_batch": python2_pickle({"data": [1], "labels": [1]})},
            "expected an array of bytes in test_batch",
        ),
        (
            {
                "cifar-10-batches-py/test_batch": python2_pickle(
                    {"data": np.zeros((1, 3072), np.uint8), "labels": [10]}
                )
            },
            "labels of test_batch do not fit",
        ),
    ],
)
def test_an_archive_with_other_content_is_named(
    change: dict[str, bytes | None],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = {**cifar10_python(parts_for(10), ["a"] * 10), **change}
    path = tmp_path / "cifar-10-python.tar.gz"
    write_tar(path, {name: content for name, content in members.items() if content is not None})
    trust(path, "cifar10", monkeypatch)
    with pytest.raises(ProactError, match=words):
        data.load("cifar10", tmp_path)


def test_an_archive_that_is_cut_off_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, CIFAR[0], monkeypatch)
    path = tmp_path / CIFAR[0][1]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ProactError, match=f"{path} is not the official file: its MD5"):
        data.load("cifar10", tmp_path)
    trust(path, "cifar10", monkeypatch)
    with pytest.raises(ProactError, match="not an official archive of cifar10"):
        data.load("cifar10", tmp_path)


IDX_FILES = tuple(mnist.SETS["mnist"].md5)


def idx_files() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    generator = np.random.default_rng(0)
    return {
        IDX_FILES[0]: generator.integers(0, 256, (100, 28, 28), dtype=np.uint8),
        IDX_FILES[1]: (np.arange(100) % 10).astype(np.uint8),
        IDX_FILES[2]: generator.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        IDX_FILES[3]: (np.arange(20) % 10).astype(np.uint8),
    }


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_idx_files_in_every_place(
    packed: bool, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = idx_files()
    sums = write_idx(tmp_path / place, files, packed)
    monkeypatch.setitem(mnist.SETS, "mnist", mnist.SETS["mnist"]._replace(md5=sums))
    monkeypatch.setenv("PROACT_DATA", str(tmp_path))
    found = data.load("mnist")
    assert [len(split) for split in (found.train, found.validation, found.test)] == [90, 10, 20]
    assert np.array_equal(pixels_of(found.test.images, found)[:, 0].numpy(), files[IDX_FILES[2]])
    assert found.test.labels.tolist() == files[IDX_FILES[3]].tolist()
    assert data.load("mnist", tmp_path).digest == found.digest


def test_idx_files_that_are_not_right_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = idx_files()
    sums = write_idx(tmp_path, files, packed=True)
    with pytest.raises(ProactError, match="train-images-idx3-ubyte.gz is not the official file"):
        data.load("mnist", tmp_path)
    path = tmp_path / f"{IDX_FILES[2]}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setitem(mnist.SETS, "mnist", mnist.SETS["mnist"]._replace(md5=sums))
    with pytest.raises(ProactError, match="t10k-images-idx3-ubyte.gz cannot be unpacked"):
        data.load("mnist", tmp_path)
    path.write_bytes(b"no gzip")
    with pytest.raises(ProactError, match="cannot be unpacked"):
        data.load("mnist", tmp_path)
    path.unlink()
    (tmp_path / IDX_FILES[2]).write_bytes(b"\x00\x00\x0d\x01")
    known = {**sums, IDX_FILES[2]: md5(b"\x00\x00\x0d\x01")}
    monkeypatch.setitem(mnist.SETS, "mnist", mnist.SETS["mnist"]._replace(md5=known))
    with pytest.raises(ProactError, match="not an IDX file of bytes"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "wanted", "how"),
    [
        ("cifar10", "cifar-10-binary.tar.gz or cifar-10-python.tar.gz", "~kriz/cifar.html"),
        ("mnist", "train-images-idx3-ubyte.gz", "enable the download"),
    ],
)
def test_missing_files_say_where_and_how(name: str, wanted: str, how: str, tmp_path: Path) -> None:
    with pytest.raises(ProactError) as error:
        data.load(name, tmp_path)
    assert all(words in str(error.value) for words in (wanted, how, str(tmp_path)))
    with pytest.raises(ProactError, match="cache/proact"):
        data.load(name)


def test_a_download_is_made_when_asked_for_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    write_cifar(tmp_path / "server", CIFAR[0], monkeypatch)

    def fetch(root: str, download: bool) -> None:
        assert download
        asked.append(root)
        shutil.copy(tmp_path / "server" / CIFAR[0][1], root)

    fake = types.ModuleType("torchvision.datasets")
    fake.CIFAR10 = fetch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    with pytest.raises(ProactError, match="enable the download"):
        data.load("cifar10", tmp_path / "here")
    assert not asked
    found = data.load("cifar10", tmp_path / "here", download=True)
    assert asked == [str(tmp_path / "here")]
    assert data.load("cifar10", tmp_path / "here", download=True).digest == found.digest
    assert len(asked) == 1
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ProactError, match="pip install torchvision"):
        data.load("cifar10", tmp_path / "empty", download=True)


def test_fashion_mnist_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    found = data.load("fashion-mnist")
    splits = (found.train, found.validation, found.test)
    assert [len(split) for split in splits] == [54_000, 6_000, 10_000]
    assert torch.bincount(found.test.labels).tolist() == [1_000] * 10
    assert torch.bincount(found.validation.labels).tolist() == [600] * 10
    assert abs(float(found.train.images.mean())) < 0.01
    assert abs(float(found.train.images.std()) - 1) < 0.01
    assert found.labels[9] == "Ankle boot"
    # A bright column in the middle of every trouser, and no shoe that reaches the upper edge.
    trousers = found.test.images[found.test.labels == 1].mean(0)[0]
    assert trousers[:, 10:18].mean() > trousers[:, :5].mean() + 0.5
