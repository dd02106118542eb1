"""An experiment from a file and the flags of a command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proact.config import config_io
from proact.config.experiment import Experiment

#: What the keys of an experiment are called on the command line.
FLAGS: Mapping[str, str] = {
    "network": "--model",
    "data": "--data",
    "variants": "--method",
    "ber": "--ber",
    "faults": "--fault",
    "encoding": "--encoding",
    "margin": "--margin",
    "trials": "--trials",
    "confidence": "--confidence",
    "images_per_trial": "--images",
    "metric": "--metric",
    "seed": "--seed",
    "threads": "--threads",
    "workers": "--workers",
    "scheduler": "--scheduler",
    "sweeps": "--sweep",
    "data_folder": "--data-folder",
    "download": "--download",
    "image_size": "--image-size",
}


def experiment_from(
    file: Path | None, given: Mapping[str, Any], flags: Mapping[str, str] = FLAGS
) -> Experiment:
    """The experiment in ``file``, with what was given on the command line in its place.

    Args:
        file: .yaml, .yml or .toml; None: every key that no flag gives has its default.
        given: by key; None where the flag was not given. Bit error rates are texts, several of them
            with commas between; faults are JSON; a number of images is a text.
        flags: what to call the keys in errors.

    Raises:
        ValueError, ProactError: what `Experiment.read` and `config_io.read` do.
    """
    values = config_io.read(file) if file is not None else {}
    told = {key: value for key, value in given.items() if value is not None}
    # Rates and faults from the command line replace those of the file, whichever way it says them.
    if told.keys() & {"ber", "faults"}:
        values = {key: value for key, value in values.items() if key not in ("ber", "faults")}
    for key, read in _READ.items():
        if key in told:
            told[key] = read(told[key])
    named = {key: flags[key] for key in told}
    return Experiment.read({**values, **told}, "" if file is None else str(file), named)


def _rates(given: Any) -> list[Any]:
    return [_number(text) for each in given for text in str(each).split(",")]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _faults(given: Any) -> list[Any]:
    return [_json(each) for each in given]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _images(text: Any) -> Any:
    return int(text) if str(text).isdecimal() else text


_READ: Mapping[str, Callable[[Any], Any]] = {
    "ber": _rates,
    "faults": _faults,
    "images_per_trial": _images,
    "data_folder": str,
}
