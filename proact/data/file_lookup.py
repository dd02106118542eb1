"""Where a data set's files are looked for, and whether they are the right ones."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proact.errors import ProactError

VARIABLE = "PROACT_DATA"


def candidates(name: str, folder: Path | None, system: tuple[str, ...] = ()) -> list[Path]:
    """The folders to look in: the given one alone, else those of the environment variable, the
    system's and the user's cache."""
    if folder is not None:
        roots = [folder]
    else:
        roots = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
        roots += [*map(Path, system), cache()]
    return [place for root in roots for place in (root, root / name)]


def cache() -> Path:
    """The user's folder for downloaded data sets."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "proact"


def find(places: list[Path], file_names: tuple[str, ...]) -> Path | None:
    """The first of the files, by any of its names, in the first place that has one."""
    for place in places:
        for name in file_names:
            if (place / name).is_file():
                return place / name
    return None


def missing(name: str, places: list[Path], wanted: str, how: str) -> ProactError:
    # A mistyped folder's sub-folders are no news.
    looked = ", ".join(str(place) for place in places)
    return ProactError(f"{name} needs {wanted}, which is not in {looked}: {how}")


def check_md5(path: Path, content: bytes | None, known: Mapping[str, str]) -> None:
    """ProactError unless the file's content (or ``content``, what it holds unpacked) has the
    checksum that ``known`` gives for its name.

    MD5 because the publishers state it: it tells a broken file from a whole one. It is no defence
    against a forged one, which is why nothing in a file is ever executed.
    """
    digest = hashlib.md5(usedforsecurity=False)
    if content is not None:
        digest.update(content)
    else:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    expected = known[path.name.removesuffix(".gz") if content is not None else path.name]
    if digest.hexdigest() != expected:
        raise ProactError(
            f"{path} is not the official file: its MD5 is {digest.hexdigest()} and should be "
            f"{expected}. It may be cut off or changed: get it again"
        )


def download(name: str, torchvision_class: str, folder: Path | None) -> Path:
    """Fetches the official files through torchvision; returns the folder that they are in."""
    try:
        datasets: Any = importlib.import_module("torchvision.datasets")
    except Exception as error:  # a torchvision of another torch fails with RuntimeError
        raise ProactError(
            f"{name} is downloaded through torchvision, which cannot be imported ({error}): pip "
            "install torchvision, or fetch the files yourself"
        ) from error
    target = cache() / name if folder is None else folder
    fetch: Callable[..., object] = getattr(datasets, torchvision_class)
    try:
        target.mkdir(parents=True, exist_ok=True)
        fetch(root=str(target), download=True)
    except (OSError, RuntimeError) as error:
        raise ProactError(f"{name} could not be downloaded to {target}: {error}") from error
    return target
