"""The names of models, data and variants in an experiment. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from proact.data.registry import names as data_names
from proact.errors import unknown
from proact.models.registry import names as model_names
from proact.results.metric_info import BUILT_IN_METRICS
from proact.text import short_repr

#: The name of the unprotected variant in a list of methods.
UNPROTECTED = "relu"

USER_CODE = "file.py:attribute or module:attribute of your own"


def is_user_code(text: str) -> bool:
    """Whether a text names an attribute of the user's code instead of a built-in name."""
    return ":" in text


def check_model_name(text: str) -> None:
    """Raise ValueError unless ``text`` names a model or an attribute of the user's code."""
    if not is_user_code(text) and text not in model_names():
        raise unknown("model", text, [*model_names(), USER_CODE])


def check_data_name(text: str) -> None:
    """Raise ValueError unless ``text`` names a data set or an attribute of the user's code."""
    if not is_user_code(text) and text not in data_names():
        raise unknown("data set", text, [*data_names(), USER_CODE])


def check_metric_name(text: Any) -> None:
    """Raise ValueError unless ``text`` names a metric or an attribute of the user's code."""
    if not is_user_code(text) and text not in BUILT_IN_METRICS:
        raise unknown("metric", text, [*BUILT_IN_METRICS, USER_CODE])


def check_function_name(text: Any) -> None:
    """Raise ValueError unless ``text`` is None or names an attribute of the user's code."""
    if text is not None and not is_user_code(text):
        raise ValueError(f"expected {USER_CODE}, got {short_repr(text)}")
