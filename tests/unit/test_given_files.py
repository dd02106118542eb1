"""Are FIFOs, devices, folders and oversized files refused before anything is read or unpacked?"""

from __future__ import annotations

import gzip
import json
import os
import socket
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import md5, write_tar
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from proact import ProactError, data, models, protect
from proact.config import config_io
from proact.config.runner import _make_writable
from proact.data import Data, cifar, mnist
from proact.faults import Replay
from proact.files import open_regular, read_regular
from proact.models import checkpoint
from proact.results import read

MIB = 1 << 20


@contextmanager
def memory_below(most: int) -> Iterator[None]:
    """Fails if Python allocates more than ``most`` bytes inside the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def made(kind: str, path: Path) -> Path:
    """Something that is no regular file."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)  # a socket's whole path may have about 100 characters only
    return path


READERS: dict[str, Callable[[Path, nn.Module], Any]] = {
    "x.yaml": lambda path, _: config_io.read(path),
    "x.toml": lambda path, _: config_io.read(path),
    "x.safetensors": lambda path, model: protect.load(model, path),
    "w.safetensors": checkpoint.read_weights,
    "replay.json": lambda path, _: Replay.load(path),
    "rows.sqlite": lambda path, _: read(path),
    "train-images-idx3-ubyte.gz": lambda path, _: data.load("mnist", path.parent),
    "train-images-idx3-ubyte": lambda path, _: data.load("mnist", path.parent),
    "cifar-10-python.tar.gz": lambda path, _: data.load("cifar10", path.parent),
}


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "socket"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_at_once(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = made(kind, tmp_path / name)
    with pytest.raises(ProactError, match=f"{name} is a {kind}: expected"):
        READERS[name](path, nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_an_image_that_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    made(kind, tmp_path / "a" / "1.png")
    with pytest.raises(ProactError, match=f"1.png is a {kind}: expected an image"):
        data.load("imagefolder", tmp_path, image_size=4)


def test_an_output_file_that_is_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.html")
    with pytest.raises(ProactError, match="report.html is a FIFO: expected a file to be written"):
        _make_writable(tmp_path, ["report.html"])


def test_a_regular_file_is_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", "a file", 7) == b"content"
    with open_regular(tmp_path / "file", "a file", 7) as file:
        assert file.read() == b"content"
    with pytest.raises(ProactError, match="has 7 bytes: expected a file of at most 6 bytes"):
        read_regular(tmp_path / "file", "a file", 6)
    for name in ("missing", "file/below"):
        with pytest.raises(ProactError, match=name):
            read_regular(tmp_path / name, "a file", 6)
    with pytest.raises(ProactError, match=r"expected the name of a file, got '.*a.x00b'"):
        read_regular(tmp_path / "a\0b", "a file", 6)


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_six_gibibytes_is_refused_before_it_is_read(name: str, tmp_path: Path) -> None:
    if name == "rows.sqlite":
        pytest.skip("a store has no largest size, and is never read as a whole")
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(6 << 30)
    with memory_below(8 * MIB), pytest.raises(ProactError, match=f"{name} has 6,442,450,944 bytes"):
        READERS[name](path, nn.Linear(2, 2))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images in which ``a/x.png`` is free."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"\x89HDF\r\n\x1a\n" + bytes(100),
        b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
    ],
)
def test_only_the_named_formats_are_opened(images: Path, content: bytes) -> None:
    (images / "a" / "x.png").write_bytes(content)
    with pytest.raises(ProactError, match="x.png cannot be read as an image: expected BMP, GIF"):
        data.load("imagefolder", images, image_size=4)


def test_a_named_format_may_have_the_suffix_of_another(images: Path) -> None:
    # ImageNet has a PNG image in a file *.JPEG.
    Image.new("RGB", (4, 4)).save(images / "a" / "x.jpeg", format="PNG")
    assert len(data.load("imagefolder", images, image_size=4).train) > 0


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(images: Path) -> None:
    Image.new("1", (9_000, 9_000)).save(images / "a" / "x.png")
    with (
        memory_below(8 * MIB),
        pytest.raises(ProactError, match="has 9,000 x 9,000 pixels: expected at most 67,108,864"),
    ):
        data.load("imagefolder", images, image_size=4)


def test_images_that_do_not_fit_into_memory_are_one_sentence(images: Path) -> None:
    with pytest.raises(
        ProactError, match="need .* GiB, and this machine has .* use a smaller image_size"
    ):
        data.load("imagefolder", images, image_size=1_000_000)


def test_a_gzip_file_that_unpacks_to_more_is_refused_block_by_block(tmp_path: Path) -> None:
    name = next(iter(mnist.SETS["mnist"].md5))
    with gzip.open(tmp_path / f"{name}.gz", "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(bytes(MIB))
    with memory_below(8 * MIB), pytest.raises(ProactError, match="it holds more than 48,000,000"):
        data.load("mnist", tmp_path)


def test_a_gzip_file_with_another_checksum_is_not_unpacked_whole(tmp_path: Path) -> None:
    name = next(iter(mnist.SETS["mnist"].md5))
    with gzip.open(tmp_path / f"{name}.gz", "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(bytes(MIB))
    with memory_below(8 * MIB), pytest.raises(ProactError, match="is not the official file"):
        data.load("mnist", tmp_path)


def trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = cifar.SETS["cifar10"]._replace(md5={path.name: md5(path.read_bytes())})
    monkeypatch.setitem(cifar.SETS, "cifar10", known)


def test_members_of_an_archive_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    large, sparse, header = (tarfile.TarInfo("data_batch_1") for _ in range(3))
    large.size = 6 << 30
    sparse.size, sparse.type = 0, tarfile.GNUTYPE_SPARSE
    header.size, header.type = 6 << 30, tarfile.XHDTYPE
    for member, words in (
        (large, "its member 'data_batch_1' is too large or sparse"),
        (sparse, "its member 'data_batch_1' is too large or sparse"),
        (header, "it unpacks to more bytes than the official archive"),
    ):
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            for _ in range(1 if member is not header else 40):
                file.write(bytes(8 * MIB))
        trusted(path, monkeypatch)
        with memory_below(450 * MIB), pytest.raises(ProactError, match=words):
            data.load("cifar10", tmp_path)


def test_an_archive_with_another_checksum_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    write_tar(path, {"data_batch_1": bytes(30 * MIB)})
    with memory_below(8 * MIB), pytest.raises(ProactError, match="is not the official file"):
        data.load("cifar10", tmp_path)


def test_a_changed_threshold_is_noticed_by_the_digest(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    protect.save(protect.protect(trained_cnn, "ranger", digits), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    changed = load_file(path)
    changed["relu1.threshold"] *= 2
    save_file(changed, path, metadata)
    with pytest.raises(ProactError, match="is damaged: its content does not have the digest"):
        protect.load(trained_cnn, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.fill_(-1.0),
            "holds a negative number: the threshold",
        ),
        (
            lambda t: t.view(-1)[0].neg_(),
            "holds a negative number: the threshold",
        ),
        (lambda t: t.view(-1)[0].fill_(float("nan")), "holds NaN or infinity"),
    ],
)
def test_thresholds_that_no_method_chooses_are_refused(
    change: Callable[[torch.Tensor], Any],
    words: str,
    trained_cnn: nn.Module,
    digits: Data,
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.safetensors"
    hardened = protect.protect(trained_cnn, "ranger", digits, granularity="channel")
    protect.save(hardened, path)
    header, thresholds = checkpoint.read(path, "proact.protection", "file", MIB)
    change(thresholds["relu1.threshold"])
    checkpoint.write(path, thresholds, {"proact.protection": json.dumps(header)})
    with pytest.raises(ProactError, match=f"is damaged: 'relu1.threshold' {words}"):
        protect.load(trained_cnn, path)
    change(hardened.get_submodule("relu1").get_parameter("threshold").data)
    with pytest.raises(ValueError, match=f"the threshold at 'relu1' {words}"):
        protect.save(hardened, path)


def test_a_threshold_of_0_of_a_neuron_that_is_never_active_is_kept(
    trained_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    hardened = protect.protect(trained_cnn, "ranger", digits, granularity="neuron")
    assert (hardened.get_submodule("relu1").get_parameter("threshold") == 0).any()
    protect.save(hardened, tmp_path / "t")
    protect.load(trained_cnn, tmp_path / "t")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(sites=[]), "it has 0 sites, which does not fit the applied methods"),
        (lambda h: h.update(applied=[]), "does not fit the applied methods"),
        (lambda h: h["sites"].append(h["sites"][0]), "it names a site twice"),
        (lambda h: h["sites"][0].update(places=[]), "names no place for the clip"),
        (lambda h: h["sites"][0].update(slope="steep"), "'sites.0.slope': Input should be a valid"),
        (lambda h: h["applied"][0].update(method="range"), "'range', which does not exist"),
        (lambda h: h["applied"][0]["options"].update(mode=3), "options of ranger are not valid"),
        (lambda h: h["sites"][0].update(caller="", name='x")+f("'), "a name that no call can have"),
        (lambda h: h.update(fingerprint="0"), "'fingerprint': String should match"),
        (lambda h: h.update(later=1), "'later': Extra inputs are not permitted"),
        (lambda h: h["sites"].pop(), "it holds 'relu4.threshold', which its header does not name"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], Any],
    words: str,
    trained_cnn: nn.Module,
    digits: Data,
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.safetensors"
    protect.save(protect.protect(trained_cnn, "ranger", digits), path)
    header, thresholds = checkpoint.read(path, "proact.protection", "file", MIB)
    change(header)
    for site in header["sites"]:
        site["places"] = [site["name"]] if site["places"] else []
    checkpoint.write(path, thresholds, {"proact.protection": json.dumps(header)})
    with pytest.raises(ProactError, match="is damaged: .*") as raised:
        protect.load(trained_cnn, path)
    assert words in str(raised.value)


def test_a_trained_network_of_an_earlier_version_is_not_mixed_in(
    digits: Data, tmp_path: Path
) -> None:
    few = Data("few", digits.train.take(torch.arange(64)), digits.validation, digits.test, 10)
    recipe = models.Recipe(epochs=1)
    models.trained("small-cnn", few, cache=tmp_path, recipe=recipe)
    (path,) = tmp_path.glob("*.safetensors")
    kept = load_file(path)
    save_file(kept, path)
    with pytest.raises(ProactError, match="an older version of proact wrote it: delete it"):
        models.trained("small-cnn", few, cache=tmp_path, recipe=recipe)
    checkpoint.write(path, {**kept, "output.bias": torch.zeros(3)})
    with pytest.raises(ProactError, match="'output.bias' has the shape .3,. and torch.float32"):
        models.trained("small-cnn", few, cache=tmp_path, recipe=recipe)
